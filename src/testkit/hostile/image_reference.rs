//! The laws of image references: a normal form is its own normal form, and the parts fit together.

use crate::images::reference::{Reference, is_latest, with_default_tag, without_tag};

/// Parses a reference and, if it is one, takes it apart and puts it together again.
pub fn check(image: &str) {
    let Ok(reference) = Reference::parse(image) else { return refused(image) };
    let Reference { repository, tag, digest } = &reference;
    assert!(repository.contains('/'), "the domain is always there: {repository:?}");
    assert!(
        repository.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@'),
        "{repository:?}"
    );
    assert_ne!(tag.as_deref(), Some(""));
    assert_ne!(digest.as_deref(), Some(""));

    let normal = written(&reference);
    assert_eq!(Reference::parse(&normal).as_ref(), Ok(&reference), "{normal:?}");

    let asked = with_default_tag(image).expect("it is a reference");
    assert_eq!(with_default_tag(&asked).as_ref(), Ok(&asked), "a tag is added once");
    let with_tag = Reference::parse(&asked).expect("a tag spoils nothing");
    assert_eq!(with_tag.repository, *repository);
    assert_eq!(with_tag.digest, *digest);
    assert!(with_tag.tag.is_some() || with_tag.digest.is_some(), "{asked:?}");

    let bare = without_tag(image).expect("it is a reference");
    assert!(image.starts_with(bare));
    // Without its tag a name may read as the identifier of an image, which is no reference.
    if !is_identifier(bare) {
        let expected = Reference { repository: repository.clone(), tag: None, digest: None };
        assert_eq!(Reference::parse(bare), Ok(expected));
    }
    let latest = tag.as_deref() == Some("latest") || (tag.is_none() && digest.is_none());
    assert_eq!(is_latest(image), latest);
}

fn refused(image: &str) {
    let error = Reference::parse(image).expect_err("it was refused before");
    assert!(
        error.to_string().contains(&format!("{image:?}")),
        "the error names the image: {error}"
    );
    assert!(!error.problem.is_empty());
    assert!(with_default_tag(image).is_err() && without_tag(image).is_err() && !is_latest(image));
}

fn written(reference: &Reference) -> String {
    let Reference { repository, tag, digest } = reference;
    let part = |separator: char, text: &Option<String>| {
        text.as_ref().map(|text| format!("{separator}{text}")).unwrap_or_default()
    };
    format!("{repository}{}{}", part(':', tag), part('@', digest))
}

fn is_identifier(text: &str) -> bool {
    text.len() == 64
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
