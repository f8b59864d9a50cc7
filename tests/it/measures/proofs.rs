//! Samples of the prose and of the bodies, before and after, for readers. Chosen by a rule, so that
//! nobody picks the good ones: of the files that changed each n-th, and in it the first declaration
//! that differs. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// How many doc comments are shown.
const DOCS: usize = 10;
/// How many bodies are shown.
const BODIES: usize = 5;
/// The lengths in lines of bodies that a reader can compare.
const LINES: std::ops::RangeInclusive<usize> = 8..=45;

/// One file in two states.
pub(super) struct Pair {
    /// Its path now.
    pub(super) path: String,
    pub(super) before: String,
    pub(super) after: String,
}

/// One declaration in two states.
struct Sample<'a> {
    path: &'a str,
    name: String,
    before: String,
    after: String,
}

/// The samples as Markdown.
pub(super) fn samples(pairs: &[Pair]) -> String {
    let mut out = String::new();
    let parsed: Vec<(&Pair, Declared, Declared)> = pairs
        .iter()
        .filter_map(|pair| Some((pair, declared(&pair.before)?, declared(&pair.after)?)))
        .collect();

    let docs = parsed.iter().filter_map(|(pair, before, after)| {
        first_difference(&pair.path, &before.docs, &after.docs, |_| true)
    });
    writeln!(out, "\n## Doc comments\n\n| where | before | after |\n|---|---|---|")
        .expect("memory");
    for sample in each_nth(docs.collect(), DOCS) {
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let Sample { path, name, before, after } = sample;
        writeln!(out, "| `{path}` `{name}` | {} | {} |", cell(&before), cell(&after))
            .expect("memory");
    }

    let bodies = parsed.iter().filter_map(|(pair, before, after)| {
        first_difference(&pair.path, &before.bodies, &after.bodies, |text| {
            LINES.contains(&text.lines().count())
        })
    });
    writeln!(out, "\n## Bodies").expect("memory");
    for Sample { path, name, before, after } in each_nth(bodies.collect(), BODIES) {
        writeln!(out, "\n### `{path}` `{name}`\n").expect("memory");
        writeln!(out, "Before:\n\n```rust\n{before}\n```\n\nAfter:\n\n```rust\n{after}\n```")
            .expect("memory");
    }
    out
}

/// `count` of all, evenly spread, the first among them.
fn each_nth<T>(all: Vec<T>, count: usize) -> Vec<T> {
    let step = all.len().div_ceil(count).max(1);
    all.into_iter().step_by(step).take(count).collect()
}

fn first_difference<'a>(
    path: &'a str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    is_fit: impl Fn(&str) -> bool,
) -> Option<Sample<'a>> {
    before.iter().find_map(|(name, before)| {
        let after = after.get(name)?;
        let differs = words(before) != words(after) && is_fit(before) && is_fit(after);
        differs.then(|| Sample {
            path,
            name: name.clone(),
            before: before.clone(),
            after: after.clone(),
        })
    })
}

/// The text without its line breaks: a comment that was only wrapped anew has not changed.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// The doc comments and the functions of one file, by the declarations' names.
#[derive(Default)]
struct Declared {
    docs: BTreeMap<String, String>,
    bodies: BTreeMap<String, String>,
}

/// `None` if the text is no Rust.
fn declared(text: &str) -> Option<Declared> {
    let file = syn::parse_file(text).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let mut visitor = Visitor { declared: Declared::default(), lines, of: String::new() };
    visitor.note_doc("the file", &file.attrs);
    visitor.visit_file(&file);
    Some(visitor.declared)
}

struct Visitor<'a> {
    declared: Declared,
    lines: Vec<&'a str>,
    /// The type whose parts are visited, with `::` behind it.
    of: String,
}

impl Visitor<'_> {
    fn note_doc(&mut self, name: &str, attributes: &[syn::Attribute]) {
        let texts = attributes.iter().filter_map(|attribute| {
            let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
            let syn::Expr::Lit(literal) = &pair.value else { return None };
            let syn::Lit::Str(text) = &literal.lit else { return None };
            attribute.path().is_ident("doc").then(|| text.value().trim().to_owned())
        });
        let doc = texts.collect::<Vec<_>>().join("\n");
        if !doc.is_empty() {
            self.declared.docs.insert(format!("{}{name}", self.of), doc);
        }
    }

    fn note_body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let from = signature.span().start().line;
        let to = block.brace_token.span.close().end().line;
        let body = self.lines.get(from - 1..to).unwrap_or_default().join("\n");
        self.declared.bodies.insert(format!("{}{}", self.of, signature.ident), body);
    }

    /// Visits the parts of a type.
    fn within(&mut self, name: &str, work: impl FnOnce(&mut Self)) {
        let outside = std::mem::replace(&mut self.of, format!("{name}::"));
        work(self);
        self.of = outside;
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Tests are no samples.
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_doc(&item.sig.ident.to_string(), &item.attrs);
        self.note_body(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_doc(&item.sig.ident.to_string(), &item.attrs);
        self.note_body(&item.sig, &item.block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let syn::Type::Path(path) = &*item.self_ty else { return };
        let name = path.path.segments.last().map(|last| last.ident.to_string());
        self.within(&name.unwrap_or_default(), |this| visit::visit_item_impl(this, item));
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let name = item.ident.to_string();
        self.note_doc(&name, &item.attrs);
        self.within(&name, |this| visit::visit_item_struct(this, item));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        let name = item.ident.to_string();
        self.note_doc(&name, &item.attrs);
        self.within(&name, |this| visit::visit_item_enum(this, item));
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.note_doc(&item.ident.to_string(), &item.attrs);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(name) = &field.ident {
            self.note_doc(&name.to_string(), &field.attrs);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.note_doc(&variant.ident.to_string(), &variant.attrs);
    }
}

#[test]
fn the_samples_are_what_differs() {
    let before = "//! One.\n/// Told what.\npub struct A { /** Its name. */ pub n: u8 }\nimpl A {\n    fn f() {\n        a();\n    }\n}\n";
    let after = before.replace("Told what.", "Holds a number.");
    let pair = |path: &str, after: &str| Pair {
        path: path.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    let wrapped = before.replace("Told what.", "Told\n/// what.");
    let text = samples(&[pair("src/a.rs", &after), pair("src/b.rs", &wrapped)]);
    assert!(text.contains("| `src/a.rs` `A` | Told what. | Holds a number. |"), "{text}");
    assert!(!text.contains("src/b.rs"), "{text}");

    let declared = declared(before).expect("it is Rust");
    assert_eq!(declared.docs["A::n"], "Its name.");
    assert_eq!(declared.bodies["A::f"], "    fn f() {\n        a();\n    }");
}

#[test]
fn samples_are_evenly_spread() {
    assert_eq!(each_nth((0..23).collect(), 5), [0, 5, 10, 15, 20]);
    assert_eq!(each_nth(vec![1, 2], 5), [1, 2]);
}
