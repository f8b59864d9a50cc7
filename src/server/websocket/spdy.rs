//! The frames of SPDY/3.1 that a client of a runtime's streaming server needs. Pure.
//!
//! The server opens no streams, and what its replies say besides is not read: so header blocks are
//! written here and never read. Flow control is not used by either side.

/// The bytes before the payload of each frame.
pub(super) const HEADER: usize = 8;
/// The longest control frame that is taken: those of a streaming server are far shorter.
const LONGEST_CONTROL: usize = 64 << 10;
/// The longest payload of a data frame that is written.
pub(super) const LONGEST_DATA: usize = 32 << 10;
/// An empty block of a compressed stream.
pub(super) const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// The flag of the last frame of a stream.
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// How many bytes follow.
        length: usize,
        /// True if they are the stream's last.
        is_last: bool,
    },
    /// A control frame.
    Control {
        /// What kind it is.
        kind: u16,
        /// How many bytes follow.
        length: usize,
    },
}

/// What a control frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// The stream was refused or broken off.
    Reset {
        /// The stream.
        stream: u32,
    },
    /// It has to be answered with the same number.
    Ping(u32),
    /// No more streams are taken.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// The error of bytes that are no frames of SPDY/3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Another version of the protocol.
    #[error("the streaming server speaks another version of SPDY")]
    Version,
    /// A control frame is too long or too short.
    #[error("the streaming server sent a control frame of {0} bytes")]
    Length(usize),
}

/// Reads the beginning of a frame.
pub(super) fn head(bytes: [u8; HEADER]) -> Result<Head, FrameError> {
    let [first @ .., flags, high, middle, low] = bytes;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let [version_high, version_low, kind @ ..] = first;
    if version_high & 0x80 == 0 {
        let stream = u32::from_be_bytes(first);
        return Ok(Head::Data { stream, length, is_last: flags & FIN != 0 });
    }
    if u16::from_be_bytes([version_high & 0x7f, version_low]) != 3 {
        return Err(FrameError::Version);
    }
    if length > LONGEST_CONTROL {
        return Err(FrameError::Length(length));
    }
    Ok(Head::Control { kind: u16::from_be_bytes(kind), length })
}

/// Reads the payload of a control frame.
pub(super) fn control(kind: u16, payload: &[u8]) -> Result<Control, FrameError> {
    let number = || match payload.first_chunk() {
        Some(bytes) => Ok(u32::from_be_bytes(*bytes)),
        None => Err(FrameError::Length(payload.len())),
    };
    Ok(match kind {
        RST_STREAM => Control::Reset { stream: number()? & 0x7fff_ffff },
        PING => Control::Ping(number()?),
        GOAWAY => Control::GoAway,
        _ => Control::Other,
    })
}

/// Returns the frames that open streams, each with one header, numbered 1, 3, 5 and so on.
///
/// The header blocks of a connection are one compressed stream; its blocks are stored as they are.
/// Each is followed by an empty one, the flush of zlib: Go's reader holds the bytes of a block back
/// until it sees the next one, and takes the end of the frame before that for a broken stream.
pub(super) fn open(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut stream = 1_u32;
    for (index, (name, value)) in headers.iter().enumerate() {
        let mut block = 1_u32.to_be_bytes().to_vec();
        for text in [name, value] {
            block.extend(number(text.len()).to_be_bytes());
            block.extend(text.as_bytes());
        }

        let mut payload = stream.to_be_bytes().to_vec();
        // No other stream is its parent; the highest priority, no slot.
        payload.extend([0, 0, 0, 0, 0, 0]);
        if index == 0 {
            // The head of a zlib stream without a dictionary.
            payload.extend([0x78, 0x01]);
        }
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(block);
        payload.extend(FLUSH);
        frames.extend(control_frame(SYN_STREAM, &payload));
        stream += 2;
    }
    frames
}

/// Returns a frame with bytes of a stream, [`LONGEST_DATA`] at most.
pub(super) fn data(stream: u32, bytes: &[u8], is_last: bool) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    let [_, length @ ..] = number(bytes.len()).to_be_bytes();
    frame.push(if is_last { FIN } else { 0 });
    frame.extend(length);
    frame.extend(bytes);
    frame
}

/// Returns the answer to a ping.
pub(super) fn pong(ping: u32) -> Vec<u8> {
    control_frame(PING, &ping.to_be_bytes())
}

fn control_frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = number(payload.len()).to_be_bytes();
    let [high, low] = kind.to_be_bytes();
    let mut frame = vec![0x80, 3, high, low, 0];
    frame.extend(length);
    frame.extend(payload);
    frame
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn streams_are_opened_with_one_compressed_stream_of_headers() {
        let frames = open(&[("streamtype", "error"), ("streamtype", "stdin")]);
        let mut rest = frames.as_slice();
        let mut compressed = Vec::new();
        for stream in [1_u32, 3] {
            let (bytes, after) = rest.split_first_chunk::<HEADER>().expect("a head");
            let Head::Control { kind, length } = head(*bytes).expect("a frame") else {
                panic!("a control frame")
            };
            assert_eq!(kind, SYN_STREAM);
            let (payload, after) = after.split_at(length);
            assert_eq!(payload[..10], [&stream.to_be_bytes()[..], &[0; 6]].concat());
            assert!(payload.ends_with(&FLUSH), "what is written can be read at once");
            compressed.extend(&payload[10..]);
            rest = after;
        }
        assert!(rest.is_empty());
        let mut blocks = Vec::new();
        let mut reader = flate2::read::ZlibDecoder::new(compressed.as_slice());
        // The stream has no end yet: what was written is all that is compared.
        drop(reader.read_to_end(&mut blocks));
        let block = |value: &str| {
            let mut block = vec![0, 0, 0, 1, 0, 0, 0, 10];
            block.extend(b"streamtype");
            block.extend([0, 0, 0, 5]);
            block.extend(value.as_bytes());
            block
        };
        assert_eq!(blocks, [block("error"), block("stdin")].concat());
    }

    #[test]
    fn frames_are_read_as_they_are_written() {
        let frame = data(5, b"abc", true);
        let (bytes, rest) = frame.split_first_chunk().expect("a head");
        assert_eq!(head(*bytes), Ok(Head::Data { stream: 5, length: 3, is_last: true }));
        assert_eq!(rest, b"abc");
        let frame = pong(2);
        let (bytes, rest) = frame.split_first_chunk().expect("a head");
        assert_eq!(head(*bytes), Ok(Head::Control { kind: PING, length: 4 }));
        assert_eq!(control(PING, rest), Ok(Control::Ping(2)));
        assert_eq!(
            control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 5]),
            Ok(Control::Reset { stream: 3 })
        );
        assert_eq!(control(GOAWAY, &[]), Ok(Control::GoAway));
        assert_eq!(control(4, &[1]), Ok(Control::Other));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(
            head(*b"HTTP/1.1"),
            Ok(Head::Data { stream: 0x4854_5450, length: 0x31_2e31, is_last: true })
        );
        assert_eq!(head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version));
        assert_eq!(head([0x80, 3, 0, 1, 0, 0xff, 0, 0]), Err(FrameError::Length(0xff_0000)));
        assert_eq!(control(PING, &[1, 2]), Err(FrameError::Length(2)));
    }
}
