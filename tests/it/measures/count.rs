//! Counts one file: its functions, types, comments, blank lines and habits. Pure.
//!
//! Code below `#[cfg(test)]` does not count. Lines are those of the text; what a line belongs to is taken from the
//! syntax tree.

use std::collections::BTreeMap;

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// What is known of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct TypeFacts {
    pub(super) fields: usize,
    pub(super) booleans: usize,
    pub(super) methods: usize,
    /// Files with an `impl` block of it.
    pub(super) files: usize,
}

/// What is known of one function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) lines: usize,
    pub(super) parameters: usize,
    pub(super) is_generic: bool,
}

/// The counts of one file.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Lines before the tests.
    pub(super) lines: usize,
    pub(super) non_blank: usize,
    pub(super) doc_lines: usize,
    pub(super) comment_lines: usize,
    pub(super) wide_lines: usize,
    /// Lines inside function bodies, and how many of them are blank or comments.
    pub(super) body_lines: usize,
    pub(super) body_blank: usize,
    pub(super) body_comments: usize,
    pub(super) functions: Vec<Function>,
    pub(super) closures: usize,
    pub(super) chained_calls: usize,
    pub(super) paired_lets: usize,
    pub(super) arms: usize,
    pub(super) wildcard_arms: usize,
    pub(super) unwraps: usize,
    pub(super) expects: usize,
    pub(super) panics: usize,
    pub(super) logs: usize,
    pub(super) text_errors: usize,
    pub(super) unsafe_blocks: usize,
    /// Doc comments, and those of at most three words.
    pub(super) docs: usize,
    pub(super) short_docs: usize,
    /// Public items, and those with a doc comment.
    pub(super) public: usize,
    pub(super) public_documented: usize,
    pub(super) types: BTreeMap<String, TypeFacts>,
    /// Methods in `impl` blocks of this file, by type.
    pub(super) methods: BTreeMap<String, usize>,
    /// Paths that `use` declarations and expressions name: `crate::a::b`, `super::c`.
    pub(super) paths: Vec<Vec<String>>,
}

/// Counts a file's text. An error if it is no Rust.
pub(super) fn count_file(text: &str) -> syn::Result<Counts> {
    let file = syn::parse_file(text)?;
    let all: Vec<&str> = text.lines().collect();
    let tests = all.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    let lines = &all[..tests.unwrap_or(all.len())];
    let mut counts = Counts { lines: lines.len(), ..Counts::default() };
    count_lines(lines, &mut counts);
    let mut visitor = Visitor { counts, lines };
    visitor.visit_file(&file);
    Ok(visitor.counts)
}

/// True for `#[cfg(test)]` and `#[cfg(any(test, …))]`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg")
            && list.tokens.clone().into_iter().any(|token| match token {
                proc_macro2::TokenTree::Ident(name) => name == "test",
                proc_macro2::TokenTree::Group(group) => group.to_string().contains("test"),
                proc_macro2::TokenTree::Punct(_) | proc_macro2::TokenTree::Literal(_) => false,
            })
    })
}

fn count_lines(lines: &[&str], counts: &mut Counts) {
    let mut doc = String::new();
    for line in lines {
        let text = line.trim();
        counts.non_blank += usize::from(!text.is_empty());
        counts.wide_lines += usize::from(line.chars().count() > 100);
        if let Some(words) = doc_text(text) {
            counts.doc_lines += 1;
            doc.push(' ');
            doc.push_str(words);
        } else {
            counts.comment_lines += usize::from(text.starts_with("//"));
            end_of_doc(&mut doc, counts);
        }
    }
    end_of_doc(&mut doc, counts);
}

fn doc_text(line: &str) -> Option<&str> {
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
}

fn end_of_doc(doc: &mut String, counts: &mut Counts) {
    if !doc.is_empty() {
        counts.docs += 1;
        counts.short_docs += usize::from(doc.split_whitespace().count() <= 3);
        doc.clear();
    }
}

struct Visitor<'a> {
    counts: Counts,
    lines: &'a [&'a str],
}

impl Visitor<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block, from: usize) {
        let start = block.brace_token.span.open().start().line;
        let end = block.brace_token.span.close().end().line;
        self.counts.functions.push(Function {
            lines: end + 1 - from,
            parameters: signature.inputs.len(),
            is_generic: !signature.generics.params.is_empty(),
        });
        for line in self.lines.iter().take(end.saturating_sub(1)).skip(start) {
            let text = line.trim();
            self.counts.body_lines += 1;
            self.counts.body_blank += usize::from(text.is_empty());
            self.counts.body_comments += usize::from(text.starts_with("//"));
        }
    }

    fn item(&mut self, visibility: &syn::Visibility, attributes: &[syn::Attribute]) {
        if matches!(visibility, syn::Visibility::Inherited) {
            return;
        }
        self.counts.public += 1;
        let is_documented = attributes.iter().any(|attribute| attribute.path().is_ident("doc"));
        self.counts.public_documented += usize::from(is_documented);
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open: it gets variants")]
        let attributes = match item {
            syn::Item::Fn(item) => item.attrs.as_slice(),
            syn::Item::Impl(item) => item.attrs.as_slice(),
            syn::Item::Mod(item) => item.attrs.as_slice(),
            syn::Item::Struct(item) => item.attrs.as_slice(),
            syn::Item::Use(item) => item.attrs.as_slice(),
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.item(&item.vis, &item.attrs);
        self.function(&item.sig, &item.block, item.sig.span().start().line);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.item(&item.vis, &item.attrs);
        self.function(&item.sig, &item.block, item.sig.span().start().line);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.item(&item.vis, &item.attrs);
        let is_bool = |field: &&syn::Field| matches!(&field.ty, syn::Type::Path(path) if path.path.is_ident("bool"));
        let facts = TypeFacts {
            fields: item.fields.len(),
            booleans: item.fields.iter().filter(is_bool).count(),
            ..TypeFacts::default()
        };
        self.counts.types.insert(item.ident.to_string(), facts);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.item(&item.vis, &item.attrs);
        self.counts.types.insert(item.ident.to_string(), TypeFacts::default());
        visit::visit_item_enum(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let syn::Type::Path(path) = &*item.self_ty
            && let Some(last) = path.path.segments.last()
        {
            let is_method = |item: &&syn::ImplItem| matches!(item, syn::ImplItem::Fn(_));
            let methods = item.items.iter().filter(is_method).count();
            *self.counts.methods.entry(last.ident.to_string()).or_default() += methods;
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        self.counts.closures += 1;
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let is_chained = matches!(&*call.receiver, syn::Expr::MethodCall(_));
        self.counts.chained_calls += usize::from(is_chained);
        match call.method.to_string().as_str() {
            "unwrap" => self.counts.unwraps += 1,
            "expect" => self.counts.expects += 1,
            _ => {}
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let is_tuple = matches!(&local.pat, syn::Pat::Tuple(_));
        let from_tuple =
            local.init.as_ref().is_some_and(|init| matches!(&*init.expr, syn::Expr::Tuple(_)));
        self.counts.paired_lets += usize::from(is_tuple && from_tuple);
        visit::visit_local(self, local);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.counts.arms += 1;
        self.counts.wildcard_arms += usize::from(matches!(&arm.pat, syn::Pat::Wild(_)));
        visit::visit_arm(self, arm);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|segment| segment.ident.to_string());
        match name.as_deref() {
            Some("trace" | "debug" | "info" | "warn" | "error") => self.counts.logs += 1,
            Some("panic" | "unreachable" | "todo" | "unimplemented") => self.counts.panics += 1,
            _ => {}
        }
        visit::visit_macro(self, call);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.counts.unsafe_blocks += 1;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_type_path(&mut self, path: &'ast syn::TypePath) {
        if let Some(last) = path.path.segments.last()
            && last.ident == "Result"
            && let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
            && let Some(syn::GenericArgument::Type(syn::Type::Path(error))) = arguments.args.last()
            && arguments.args.len() == 2
            && error.path.is_ident("String")
        {
            self.counts.text_errors += 1;
        }
        visit::visit_type_path(self, path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if matches!(names.first().map(String::as_str), Some("crate" | "super" | "self")) {
            self.counts.paths.push(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        flatten(&item.tree, &mut Vec::new(), &mut self.counts.paths);
        visit::visit_item_use(self, item);
    }
}

/// The paths of a `use` tree: `a::b` and `a::c` of `a::{b, c}`.
fn flatten(tree: &syn::UseTree, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, paths);
            before.pop();
        }
        syn::UseTree::Name(name) => paths.push(with(before, &name.ident.to_string())),
        syn::UseTree::Rename(rename) => paths.push(with(before, &rename.ident.to_string())),
        syn::UseTree::Glob(_) => paths.push(before.clone()),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, paths);
            }
        }
    }
}

fn with(before: &[String], name: &str) -> Vec<String> {
    let mut path = before.to_vec();
    path.push(name.to_owned());
    path
}

#[test]
fn counts_what_it_says() {
    let text = "/// Two words.\npub struct A { a: bool, b: bool }\nimpl A {\n    fn f(&self, x: u8) -> Result<u8, String> {\n        // Why.\n\n        let (a, b) = (1, x);\n        Ok(a + b)\n    }\n}\n#[cfg(test)]\nmod tests {\n}\n";
    let counts = count_file(text).expect("it is Rust");
    assert_eq!((counts.lines, counts.docs, counts.short_docs), (10, 1, 1));
    assert_eq!((counts.body_lines, counts.body_blank, counts.body_comments), (4, 1, 1));
    assert_eq!((counts.paired_lets, counts.text_errors), (1, 1));
    assert_eq!(counts.types["A"].booleans, 2);
    assert_eq!(counts.methods["A"], 1);
    assert_eq!(counts.functions[0].lines, 6);
}
