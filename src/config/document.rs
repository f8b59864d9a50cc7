//! Reads the text of a file as Go's decoders of the API read it: JSON or YAML, to plain data.
//!
//! Shared by everything that administrators write: the configuration, the kubeconfig, manifests of
//! static pods. The laws:
//!
//! - Text that begins with `{` is JSON and nothing else: no comments, no trailing commas. A lone
//!   surrogate and a byte that is no UTF-8 become U+FFFD.
//! - Other text is YAML 1.1, in UTF-8 or, with a byte order mark, in UTF-16. Only the first
//!   document is read, `0755` is octal, `yes` is true, `5.0` is an integer.
//! - A key that stands twice has its last value.
//! - Collections may be nested [`DEEPEST`] deep. What lies below [`KEPT_DEPTH`] is read and
//!   dropped: no type of the API is that deep, and code that walks a value recurses.
//!
//! The answer depends on the text alone; a thread lends its stack.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::Visitor;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess};
use serde_json::{Map, Number, Value};

/// The deepest nesting of collections; the limit of Go's decoders.
const DEEPEST: usize = 10_000;
/// The deepest nesting of collections that is kept.
const KEPT_DEPTH: usize = 64;
/// The stack for a text that is nested deeply; only the pages that are used are taken.
const LARGE_STACK: usize = 512 << 20;

/// The error of a text that is neither JSON nor YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(String);

/// The content of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The first document; null if there is none.
    pub value: Value,
    /// The paths of keys that stand twice.
    pub repeated: Vec<String>,
}

/// Reads a text; see the module's documentation for what it may be.
pub fn read(bytes: &[u8]) -> Result<Read, SyntaxError> {
    if is_json(bytes) {
        let text = String::from_utf8_lossy(bytes);
        return json(&replace_lone_surrogates(&text));
    }
    let text = decode(bytes)?;
    let text = first_document(&text);
    match yaml(text, KEPT_DEPTH) {
        Ok(read) => Ok(read),
        // Most texts are shallow; the few others are read again with room for them.
        Err(_) if nesting(text) > KEPT_DEPTH => on_a_large_stack(|| yaml(text, DEEPEST)),
        Err(error) => Err(error),
    }
}

/// Returns true if Go takes the text for JSON: its first character is a brace.
pub fn is_json(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.first() == Some(&b'{')
}

/// The text of a YAML file: the byte order mark says how it is encoded.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, SyntaxError> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(SyntaxError("yaml: incomplete UTF-16 character".to_owned()));
        }
        char::decode_utf16(units.iter().map(|&pair| unit(pair)))
            .collect::<Result<String, _>>()
            .map(Cow::Owned)
            .map_err(|_| SyntaxError("yaml: unexpected low surrogate area".to_owned()))
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] | rest => std::str::from_utf8(rest)
            .map(Cow::Borrowed)
            .map_err(|_| SyntaxError("yaml: invalid leading UTF-8 octet".to_owned())),
    }
}

fn yaml(text: &str, depth: usize) -> Result<Read, SyntaxError> {
    let repeated = RefCell::new(Vec::new());
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = depth;
    budget.flow_nesting_limit = depth;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        budget: Some(budget),
    };
    let root = Tree { path: String::new(), depth: 0, whole_floats: true, repeated: &repeated };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |source| {
        root.deserialize(source)
    })
    .map_err(|error| SyntaxError(without_hint(&error.without_snippet().to_string())))?;
    Ok(Read { value, repeated: repeated.into_inner() })
}

/// The library's sentence without its advice to callers of the library.
fn without_hint(problem: &str) -> String {
    problem.split('\n').next().unwrap_or_default().to_owned()
}

fn json(text: &str) -> Result<Read, SyntaxError> {
    let depth = nesting(text);
    if depth > DEEPEST {
        return Err(SyntaxError("exceeded max depth".to_owned()));
    }
    let parse = || {
        let repeated = RefCell::new(Vec::new());
        let root = Tree { path: String::new(), depth: 0, whole_floats: false, repeated: &repeated };
        let mut source = serde_json::Deserializer::from_str(text);
        let value = root.deserialize(&mut source).and_then(|value| source.end().map(|()| value));
        let value = value.map_err(|error| SyntaxError(error.to_string()))?;
        Ok(Read { value, repeated: repeated.into_inner() })
    };
    parse()
}

/// Runs `work` where recursion has room.
fn on_a_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, SyntaxError> + Send,
) -> Result<T, SyntaxError> {
    let no_room = |_| SyntaxError("collections are nested too deeply".to_owned());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(LARGE_STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(no_room)?;
        thread.join().unwrap_or_else(|_| Err(SyntaxError("reading it failed".to_owned())))
    })
}

/// An upper bound of how deep collections are nested: opening brackets, and indentation.
fn nesting(text: &str) -> usize {
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    let dashes =
        |line: &str| line.bytes().take_while(|byte| matches!(byte, b' ' | b'-' | b'?')).count();
    brackets + text.lines().map(dashes).max().unwrap_or_default()
}

/// The text up to the marker that begins a second document: Go's library reads no further.
fn first_document(text: &str) -> &str {
    let mut offset = 0;
    let mut content = false;
    for line in text.split_inclusive('\n') {
        let marker = line.trim_end();
        if content && (marker == "---" || marker.starts_with("--- ") || marker == "...") {
            return &text[..offset];
        }
        let blank =
            marker.is_empty() || marker.trim_start().starts_with('#') || marker.starts_with('%');
        content |= !blank && marker != "---";
        offset += line.len();
    }
    text
}

/// Replaces each escape of a surrogate without its other half by that of U+FFFD, as Go does.
fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    };

    let mut replaced = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        let width = match (unit(at), unit(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                replaced.push_str(&text[kept..at]);
                replaced.push_str("\\ufffd");
                kept = at + 6;
                6
            }
            _ => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        at += width;
    }

    if kept == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[kept..]);
    Cow::Owned(replaced)
}

/// Builds a [`Value`] and notes keys that stand twice in one map; the later one wins.
struct Tree<'a> {
    path: String,
    depth: usize,
    /// Whether `5.0` is 5, as in YAML that Go turns into JSON.
    whole_floats: bool,
    repeated: &'a RefCell<Vec<String>>,
}

impl Tree<'_> {
    fn child(&self, name: &str) -> Self {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, depth: self.depth + 1, ..*self }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth >= KEPT_DEPTH {
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            return Ok(Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if let Some(whole) = integral(value).filter(|_| self.whole_floats) {
            return Ok(whole.into());
        }
        // JSON, into which Go turns the YAML, has neither infinity nor "not a number".
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom(format!("unsupported value: {value}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.child(&values.len().to_string()))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let child = self.child(&key);
            let path = child.path.clone();
            let value = entries.next_value_seed(child)?;
            if map.insert(key, value).is_some() {
                self.repeated.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(map))
    }
}

/// A key as its text, whatever YAML took it for.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

/// `5.0` as 5, as Go's conversion by way of JSON makes it.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn integral(value: f64) -> Option<i64> {
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && value.abs() <= LARGEST_EXACT).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Result<Value, String> {
        read(text.as_bytes()).map(|read| read.value).map_err(|error| error.to_string())
    }

    #[test]
    fn text_that_begins_with_a_brace_is_json_only() {
        assert_eq!(value(" {\"a\": 1.5e1}"), Ok(json!({ "a": 15.0 })));
        for text in ["{\"a\":1,}", "{\n# x\n\"a\":1}", "{a: 1}", "{\"a\":1} {", "{\"a\":1}\nb: 2"] {
            assert!(value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lone_surrogate_of_json_is_replaced() {
        for (text, expected) in [
            (r#"{"a":"\ud83d"}"#, "\u{FFFD}"),
            (r#"{"a":"\udc00x"}"#, "\u{FFFD}x"),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, "\u{FFFD}\u{1F600}"),
            (r#"{"a":"\ud83dé\\ud83d"}"#, "\u{FFFD}é\\ud83d"),
        ] {
            assert_eq!(value(text), Ok(json!({ "a": expected })), "{text}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}").map(|r| r.value), Ok(json!({ "a": "\u{FFFD}" })));
        assert!(value(r#"a: "\ud83d""#).is_err(), "YAML refuses it");
    }

    #[test]
    fn a_byte_order_mark_says_the_encoding() {
        let text = "a: ä😀\n";
        let wide = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{FEFF}".encode_utf16().chain(text.encode_utf16()).flat_map(unit).collect()
        };
        let marked = [b"\xEF\xBB\xBF", text.as_bytes()].concat();
        for bytes in [wide(u16::to_le_bytes), wide(u16::to_be_bytes), marked] {
            assert_eq!(read(&bytes).map(|read| read.value), Ok(json!({ "a": "ä😀" })));
        }
        assert!(read(b"\xFF\xFEa").is_err() && read(b"a: \xFF").is_err());
    }

    #[test]
    fn deep_nesting_is_read_and_dropped() {
        for depth in [100, 5000] {
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            for text in [format!("a: 1\nx: {nested}\n"), format!("{{\"a\":1,\"x\":{nested}}}")] {
                assert_eq!(value(&text).map(|value| value["a"].clone()), Ok(json!(1)), "{depth}");
            }
        }
        let too_deep = format!("x: {}", "[".repeat(20_000));
        assert!(value(&too_deep).is_err());
        assert!(value(&format!("{{\"x\": {}", "[".repeat(20_000))).is_err());
    }

    #[test]
    fn repeated_keys_are_named_and_the_last_counts() {
        for text in ["a: {b: 1, b: 2}", r#"{"a":{"b":1,"b":2}}"#] {
            let found = read(text.as_bytes()).expect("it is read");
            assert_eq!((found.value, found.repeated), (json!({"a": {"b": 2}}), vec!["a.b".into()]));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, text in "[\\[\\]{}:,\\\\ud8c0\" \n-]{0,200}") {
            drop(read(&bytes));
            drop(read(text.as_bytes()));
            drop(read(format!("{{{text}").as_bytes()));
        }
    }
}
