//! Prints a pod as upstream does to hash it: every field of Go's structs in its order, with types.
//!
//! Pure. The printout has no quotes and no escapes:
//!
//! - `Name:(type)value` for a field; the zero value for one that is absent.
//! - `<nil>` for a pointer, list or map that is absent; `[a b]` and `map[k:v]` else.
//! - `{…}` for a struct. Neither items nor what a pointer points to have their type repeated.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::{Unprintable, quantity};

/// The types of the internal Pod; `tests/static-uids` explains the form.
const LAYOUT: &str = include_str!("layout.txt");

/// A type that has a name.
enum Shape<'a> {
    Struct(Vec<Field<'a>>),
    /// Another name of this type.
    Alias(&'a str),
}

/// A field of a struct.
struct Field<'a> {
    name: &'a str,
    /// Its name in JSON; `.` if its fields stand in its place.
    json: &'a str,
    type_name: &'a str,
}

/// Prints a pod whose document was arranged as the internal types are.
pub(super) fn pod(document: &Value, out: &mut impl Write) -> Result<(), Unprintable> {
    let shapes = read(LAYOUT);
    let mut printer = Printer { shapes: &shapes, out, rounds: false };
    printer.value("*core.Pod", Some(document), true)
}

/// Reads a layout: a type begins at the margin, its fields are indented.
fn read(layout: &str) -> BTreeMap<&str, Shape<'_>> {
    let mut shapes = BTreeMap::new();
    let mut current = "";
    for line in layout.lines() {
        let mut words = line.split(' ');
        let first = words.next().unwrap_or_default();
        if first.is_empty() {
            let mut word = || words.next().unwrap_or_default();
            let field = Field { name: word(), json: word(), type_name: word() };
            if let Some(Shape::Struct(fields)) = shapes.get_mut(current) {
                fields.push(field);
            }
        } else {
            current = first;
            let shape = words.next().map_or_else(|| Shape::Struct(Vec::new()), Shape::Alias);
            shapes.insert(current, shape);
        }
    }
    shapes
}

struct Printer<'a, W> {
    shapes: &'a BTreeMap<&'a str, Shape<'a>>,
    out: &'a mut W,
    /// Whether quantities are rounded up to thousandths, as those of lists of resources are.
    rounds: bool,
}

impl<W: Write> Printer<'_, W> {
    /// Prints a value, with its type in front or without.
    fn value(
        &mut self,
        type_name: &str,
        value: Option<&Value>,
        typed: bool,
    ) -> Result<(), Unprintable> {
        let value = value.filter(|value| !value.is_null());
        if typed {
            self.text(&format!("({type_name})"));
        }

        if let Some(target) = type_name.strip_prefix('*') {
            return match value {
                None => {
                    self.text("<nil>");
                    Ok(())
                }
                // Upstream has no list of pointers, which would be printed otherwise.
                Some(_) if !typed => Err(Unprintable::Type(type_name.to_owned())),
                Some(_) => self.value(target, value, false),
            };
        }
        if let Some(item) = type_name.strip_prefix("[]") {
            return self.list(item, value);
        }
        if let Some((_, item)) =
            type_name.strip_prefix("map[").and_then(|rest| rest.split_once(']'))
        {
            return self.map(item, value);
        }
        match type_name {
            "resource.Quantity" => return quantity::print(value, self.rounds, self.out),
            "v1.Time" => return self.moment(value),
            "intstr.IntOrString" => return self.int_or_string(value),
            _ => {}
        }
        self.named(type_name, value)
    }

    fn list(&mut self, item: &str, value: Option<&Value>) -> Result<(), Unprintable> {
        let items = match value {
            None => {
                self.text("<nil>");
                return Ok(());
            }
            Some(Value::Array(items)) => items,
            Some(_) => return Err(Unprintable::Type(format!("a list of {item}"))),
        };
        self.text("[");
        for (index, value) in items.iter().enumerate() {
            self.text(if index == 0 { "" } else { " " });
            self.value(item, Some(value), false)?;
        }
        self.text("]");
        Ok(())
    }

    fn map(&mut self, item: &str, value: Option<&Value>) -> Result<(), Unprintable> {
        let fields = match value {
            None => {
                self.text("<nil>");
                return Ok(());
            }
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(Unprintable::Type(format!("a map of {item}"))),
        };
        let mut sorted: Vec<_> = fields.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        self.text("map[");
        for (index, (key, value)) in sorted.into_iter().enumerate() {
            self.text(if index == 0 { "" } else { " " });
            self.text(key);
            self.text(":");
            self.value(item, Some(value), false)?;
        }
        self.text("]");
        Ok(())
    }

    fn named(&mut self, type_name: &str, value: Option<&Value>) -> Result<(), Unprintable> {
        let shapes = self.shapes;
        match shapes.get(type_name) {
            None => self.scalar(type_name, value),
            Some(Shape::Alias(other)) => {
                let outer = std::mem::replace(&mut self.rounds, type_name == "core.ResourceList");
                let printed = self.value(other, value, false);
                self.rounds = outer;
                printed
            }
            Some(Shape::Struct(fields)) => self.fields(type_name, fields, value),
        }
    }

    fn fields(
        &mut self,
        type_name: &str,
        fields: &[Field<'_>],
        value: Option<&Value>,
    ) -> Result<(), Unprintable> {
        if value.is_some_and(|value| !value.is_object()) {
            return Err(Unprintable::Type(type_name.to_owned()));
        }
        self.text("{");
        for (index, field) in fields.iter().enumerate() {
            self.text(if index == 0 { "" } else { " " });
            self.text(field.name);
            self.text(":");
            let inner = match field.json {
                "." => value,
                name => value.and_then(|value| value.get(name)),
            };
            self.value(field.type_name, inner, true)?;
        }
        self.text("}");
        Ok(())
    }

    fn scalar(&mut self, type_name: &str, value: Option<&Value>) -> Result<(), Unprintable> {
        match (type_name, value) {
            ("string", None) => {}
            ("string", Some(Value::String(text))) => self.text(text),
            ("bool", None) => self.text("false"),
            ("bool", Some(Value::Bool(is_set))) => self.text(&is_set.to_string()),
            ("int32" | "int64", None) => self.text("0"),
            ("int32" | "int64", Some(Value::Number(number))) if number.is_i64() => {
                self.text(&number.to_string());
            }
            _ => return Err(Unprintable::Type(type_name.to_owned())),
        }
        Ok(())
    }

    /// Prints the absence of a moment.
    fn moment(&mut self, value: Option<&Value>) -> Result<(), Unprintable> {
        if value.is_some() {
            return Err(Unprintable::Moment);
        }
        self.text("{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}");
        Ok(())
    }

    fn int_or_string(&mut self, value: Option<&Value>) -> Result<(), Unprintable> {
        let (kind, number, text) = match value {
            None => (0, 0, ""),
            Some(Value::Number(number)) if number.is_i64() => {
                (0, number.as_i64().unwrap_or_default(), "")
            }
            Some(Value::String(text)) => (1, 0, text.as_str()),
            Some(_) => return Err(Unprintable::Type("intstr.IntOrString".to_owned())),
        };
        self.text(&format!(
            "{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}"
        ));
        Ok(())
    }

    fn text(&mut self, text: &str) {
        // Neither a hash nor a text refuses to be written to.
        let _ = self.out.write_str(text);
    }
}
