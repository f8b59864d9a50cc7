//! How the text of each kind of flag is read. The texts of problems are those of pflag, Go's
//! strconv and upstream.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Taint;

use super::{Bind, Ignored, Target, Version};
use crate::config::types::{GoDuration, MemoryReservation, QuantityText, VModule};
use crate::config::validate::labels;
use crate::model::quantity::Amount;

impl Bind {
    /// The value that a flag has when it stands without one; none if it needs one.
    pub(super) fn value_if_bare(&self) -> Option<&'static str> {
        matches!(self, Self::Bool(_) | Self::Version(_) | Self::Ignored(Ignored::Bool, _))
            .then_some("true")
    }

    /// Reads `text` into its place. Maps and lists replace what is there the `first` time and add
    /// to it later.
    pub(super) fn set(&self, target: &mut Target, text: &str, first: bool) -> Result<(), String> {
        match self {
            Self::Bool(place) => *place(target) = parse_bool(text)?,
            Self::Int32(place) => *place(target) = parse_int(text)?,
            Self::Int64(place) => *place(target) = parse_int(text)?,
            Self::Level(place) => *place(target) = parse_int(text)?,
            Self::Text(place) => text.clone_into(place(target)),
            Self::Ip(place) => set_ip(place(target), text)?,
            Self::Duration(place) => {
                *place(target) = GoDuration::parse(text).map_err(|error| error.to_string())?;
            }
            Self::Quantity(place) => {
                Amount::parse(text).map_err(|error| error.to_string())?;
                *place(target) = QuantityText(text.to_owned());
            }
            Self::List(place) => fresh(place(target), first).extend(split_list(text)?),
            Self::Map(place) => add_pairs(fresh(place(target), first), text, '=')?,
            Self::LessMap(place) => add_pairs(fresh(place(target), first), text, '<')?,
            Self::Pair(place) => {
                let (key, value) =
                    text.split_once('=').ok_or("malformed pair, expect string=string")?;
                fresh(place(target), first).insert(key.trim().to_owned(), value.trim().to_owned());
            }
            Self::Labels(place) => add_labels(place(target), text),
            Self::BoolMap(place) => add_bools(fresh(place(target), first), text)?,
            Self::MultiMap(place) => add_multi(&mut fresh(place(target), first).0, text)?,
            Self::Taints(place) => *place(target) = parse_taints(text)?,
            Self::ReservedMemory(place) => {
                let reservations = parse_reserved_memory(text)?;
                fresh(place(target), first).extend(reservations);
            }
            Self::VModule(place) => {
                let patterns = parse_vmodule(text)?;
                fresh(place(target), first).extend(patterns);
            }
            Self::Version(place) => {
                *place(target) = match text {
                    "raw" => Version::Raw,
                    _ if parse_bool(text)? => Version::Plain,
                    _ => Version::No,
                }
            }
            Self::Ignored(Ignored::Bool, _) => drop(parse_bool(text)?),
            Self::Ignored(Ignored::Int, _) => drop(parse_int::<i64>(text)?),
            Self::Ignored(Ignored::Duration, _) => {
                GoDuration::parse(text).map_err(|error| error.to_string())?;
            }
            Self::Ignored(Ignored::Text, _) => {}
        }
        Ok(())
    }

    /// Returns the type behind the flag's name in the help, e.g. `string`; empty for a switch.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) | Self::Ignored(Ignored::Bool, _) => "",
            Self::Int32(_) | Self::Int64(_) | Self::Level(_) | Self::Ignored(Ignored::Int, _) => {
                "<n>"
            }
            Self::Text(_) | Self::Ignored(Ignored::Text, _) => "<text>",
            Self::Ip(_) => "<address>",
            Self::Duration(_) | Self::Ignored(Ignored::Duration, _) => "<duration>",
            Self::Quantity(_) => "<quantity>",
            Self::List(_) => "<a,b,…>",
            Self::Map(_) | Self::Labels(_) => "<k=v,…>",
            Self::Pair(_) => "<k=v>",
            Self::LessMap(_) => "<k<v,…>",
            Self::BoolMap(_) => "<k=bool,…>",
            Self::MultiMap(_) => "<k:v,…>",
            Self::Taints(_) => "<key=value:effect,…>",
            Self::ReservedMemory(_) => "<numa:type=quantity,…>",
            Self::VModule(_) => "<pattern=n,…>",
            Self::Version(_) => "[=raw]",
        }
    }

    /// The value in `target` as text; empty when there is nothing to show.
    pub(super) fn shown(&self, target: &mut Target) -> String {
        match self {
            Self::Bool(place) => place(target).to_string(),
            Self::Int32(place) => place(target).to_string(),
            Self::Int64(place) => place(target).to_string(),
            Self::Level(place) => place(target).to_string(),
            Self::Text(place) | Self::Ip(place) => place(target).clone(),
            Self::Duration(place) => place(target).to_string(),
            Self::Quantity(place) => place(target).to_string(),
            Self::List(place) => place(target).join(","),
            Self::Map(place) | Self::Pair(place) | Self::LessMap(place) | Self::Labels(place) => {
                place(target).iter().fold(String::new(), |mut text, (key, value)| {
                    let _ = write!(text, "{}{key}={value}", if text.is_empty() { "" } else { "," });
                    text
                })
            }
            Self::BoolMap(_)
            | Self::MultiMap(_)
            | Self::Taints(_)
            | Self::ReservedMemory(_)
            | Self::VModule(_)
            | Self::Version(_) => String::new(),
            Self::Ignored(_, default) => (*default).to_owned(),
        }
    }
}

fn fresh<T: Default>(place: &mut T, first: bool) -> &mut T {
    if first {
        *place = T::default();
    }
    place
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// An integer with Go's base prefixes (`0x1f`, `0o17`, `017`, `0b1`) and `_` between digits.
fn parse_int<T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    let problem = |what: &str| format!("strconv.ParseInt: parsing {text:?}: {what}");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let body = if radix == 10 { body.to_owned() } else { body.replace('_', "") };
    if body.is_empty() || !body.chars().all(|digit| digit.is_digit(radix)) {
        return Err(problem("invalid syntax"));
    }
    let magnitude =
        i128::from_str_radix(&body, radix).map_err(|_| problem("value out of range"))?;
    T::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| problem("value out of range"))
}

fn set_ip(place: &mut String, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    // Leading zeros are accepted, as they were before Go refused them.
    let plain: Vec<&str> = text.split('.').map(|part| part.trim_start_matches('0')).collect();
    let plain = plain
        .iter()
        .map(|part| if part.is_empty() { "0" } else { part })
        .collect::<Vec<_>>()
        .join(".");
    if text.parse::<IpAddr>().is_err() && plain.parse::<IpAddr>().is_err() {
        return Err(format!("{text:?} is not a valid IP address"));
    }
    text.clone_into(place);
    Ok(())
}

/// A line of comma-separated values; one that begins with a quote ends with one and may hold
/// commas.
fn split_list(text: &str) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    let mut rest = text;
    if rest.is_empty() {
        return Ok(values);
    }
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (value, tail) =
                unquote(quoted).ok_or("parse error: extraneous or missing \" in quoted-field")?;
            values.push(value);
            match tail.strip_prefix(',') {
                Some(tail) => rest = tail,
                None if tail.is_empty() => return Ok(values),
                None => {
                    return Err("parse error: extraneous or missing \" in quoted-field".to_owned());
                }
            }
        } else {
            let Some((value, tail)) = rest.split_once(',') else {
                values.push(rest.to_owned());
                return Ok(values);
            };
            values.push(value.to_owned());
            rest = tail;
        }
    }
}

/// The value up to the closing quote (two quotes are one), and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (head, tail) = rest.split_once('"')?;
        value.push_str(head);
        match tail.strip_prefix('"') {
            Some(tail) => {
                value.push('"');
                rest = tail;
            }
            None => return Some((value, tail)),
        }
    }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|pair| !pair.is_empty())
}

fn add_pairs(
    map: &mut BTreeMap<String, String>,
    text: &str,
    separator: char,
) -> Result<(), String> {
    for pair in pairs(text) {
        let (key, value) = pair
            .split_once(separator)
            .ok_or_else(|| format!("malformed pair, expect string{separator}string"))?;
        map.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(())
}

fn add_labels(map: &mut BTreeMap<String, String>, text: &str) {
    for pair in pairs(text) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.insert(key.trim().to_owned(), value.trim().to_owned());
    }
}

fn add_bools(map: &mut BTreeMap<String, bool>, text: &str) -> Result<(), String> {
    for pair in pairs(text) {
        let (key, value) = pair.split_once('=').ok_or("malformed pair, expect string=bool")?;
        let (key, value) = (key.trim(), value.trim());
        let value = parse_bool(value)
            .map_err(|error| format!("invalid value of {key}: {value}, err: {error}"))?;
        map.insert(key.to_owned(), value);
    }
    Ok(())
}

fn add_multi(map: &mut BTreeMap<String, Vec<String>>, text: &str) -> Result<(), String> {
    for pair in pairs(text) {
        let (key, value) = pair.split_once(':').ok_or("malformed pair, expect string:string")?;
        map.entry(key.trim().to_owned()).or_default().push(value.trim().to_owned());
    }
    Ok(())
}

fn parse_taints(text: &str) -> Result<Vec<Taint>, String> {
    let mut taints: Vec<Taint> = Vec::new();
    for spec in text.split(',').filter(|_| !text.is_empty()) {
        // A trailing dash asks to remove a taint, which means nothing for a new node.
        if let Some(spec) = spec.strip_suffix('-') {
            parse_taint(spec)?;
            continue;
        }
        let taint = parse_taint(spec)?;
        if taint.effect.is_empty() {
            return Err(format!("invalid taint spec: {spec}"));
        }
        if taints.iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            let value = taint.value.unwrap_or_default();
            return Err(format!(
                "duplicated taints with the same key and effect: {{{} {value} {} <nil>}}",
                taint.key, taint.effect
            ));
        }
        taints.push(taint);
    }
    Ok(taints)
}

fn parse_taint(spec: &str) -> Result<Taint, String> {
    let invalid = || format!("invalid taint spec: {spec}");
    let (pair, effect) = match spec.split(':').collect::<Vec<_>>()[..] {
        [key] => return checked_taint(spec, key, None, ""),
        [pair, effect] => (pair, effect),
        _ => return Err(invalid()),
    };
    if !labels::is_taint_effect(effect) {
        return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    match pair.split('=').collect::<Vec<_>>()[..] {
        [key] => checked_taint(spec, key, None, effect),
        [key, value] => checked_taint(spec, key, Some(value), effect),
        _ => Err(invalid()),
    }
}

fn checked_taint(
    spec: &str,
    key: &str,
    value: Option<&str>,
    effect: &str,
) -> Result<Taint, String> {
    let mut problems = value.map(labels::value_problems).unwrap_or_default();
    if problems.is_empty() {
        problems = labels::name_problems(key);
    }
    if !problems.is_empty() {
        return Err(format!("invalid taint spec: {spec}, {}", problems.join("; ")));
    }
    let value = value.filter(|value| !value.is_empty()).map(ToOwned::to_owned);
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

fn parse_reserved_memory(text: &str) -> Result<Vec<MemoryReservation>, String> {
    text.split(';').filter(|_| !text.is_empty()).map(parse_reservation).collect()
}

fn parse_reservation(text: &str) -> Result<MemoryReservation, String> {
    let format = || {
        format!(
            "the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got {text}"
        )
    };
    let [node, limits] = text.split(':').collect::<Vec<_>>()[..] else { return Err(format()) };
    let numa_node = node
        .parse()
        .map_err(|_| format!("failed to convert the NUMA node ID, expected integer, got {node}"))?;
    let mut reservation = MemoryReservation { numa_node, limits: BTreeMap::new() };
    for limit in limits.split(',') {
        let [kind, quantity] = limit.split('=').collect::<Vec<_>>()[..] else {
            return Err(format!(
                "the reserved limit has incorrect value, expected type=quantity, got {limit}"
            ));
        };
        if kind != "memory" && !kind.starts_with("hugepages-") {
            return Err(format!("memory type conversion error, unknown type: {kind:?}"));
        }
        Amount::parse(quantity).map_err(|_| format!("failed to parse the quantity: {quantity}"))?;
        reservation.limits.insert(kind.to_owned(), QuantityText(quantity.to_owned()));
    }
    Ok(reservation)
}

fn parse_vmodule(text: &str) -> Result<Vec<VModule>, String> {
    pairs(text)
        .map(|item| {
            let (pattern, level) = item
                .split_once('=')
                .filter(|(pattern, level)| !pattern.is_empty() && !level.is_empty())
                .ok_or_else(|| format!("{item:?} does not have the pattern=N format"))?;
            let verbosity = level
                .parse()
                .map_err(|_| format!("parsing verbosity in {item:?}: invalid syntax"))?;
            Ok(VModule { file_pattern: pattern.to_owned(), verbosity })
        })
        .collect()
}
