//! The merge: values from files, variables and flags put into one tree, each remembering its origin.
//!
//! Owns the walk over a parsed file against the schema, the reading of texts (variables, `--set`) as typed values, and the
//! refusal of unknown keys. Later layers win key by key; arrays replace. It reads no file itself.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Errors, Origin, Place};
use super::schema::Field;
use super::secret::mask_url;
use super::suggest::nearest;

/// The tree being merged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    /// The values.
    pub(crate) tree: toml::Table,
    /// Who set what, by the path of the leaf.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// `x_file` keys, by the path of `x`.
    pub(crate) secret_files: BTreeMap<String, (String, Origin)>,
    pub(crate) errors: Errors,
}

/// A field found by its path.
#[derive(Debug)]
enum Found<'a> {
    /// A value, or a part of one that is itself a map (the rest of the path).
    Leaf(&'a Field, usize),
    /// The `x_file` twin of a secret.
    Twin(&'a Field),
    /// A whole table.
    Table,
    /// No such key; the siblings for a suggestion.
    Unknown(&'a [Field]),
}

fn find<'a>(fields: &'a [Field], path: &[&str]) -> Found<'a> {
    let mut fields = fields;
    for (depth, part) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        if let Some(field) = fields.iter().find(|field| field.key == *part) {
            match &field.table {
                Some(inner) if last => {
                    return if inner.is_empty() {
                        Found::Unknown(fields)
                    } else {
                        Found::Table
                    };
                }
                Some(inner) => fields = inner,
                None => return Found::Leaf(field, depth + 1),
            }
        } else {
            let twin = part.strip_suffix("_file").and_then(|stem| {
                fields
                    .iter()
                    .find(|field| field.secret && field.key == stem)
            });
            return match twin {
                Some(field) if last => Found::Twin(field),
                _ => Found::Unknown(fields),
            };
        }
    }
    Found::Unknown(fields)
}

impl Layers {
    /// Starts from the defaults.
    pub(crate) fn new(defaults: toml::Table) -> Self {
        Self {
            tree: defaults,
            ..Self::default()
        }
    }

    /// Lays one file over it. Broken TOML and wrong values are collected, not returned.
    pub(crate) fn file(&mut self, fields: &[Field], path: &Path, source: &str) {
        match DeTable::parse(source) {
            Ok(table) => self.file_table(fields, &mut Vec::new(), table.get_ref(), path, source),
            Err(error) => {
                let place = Place::at(path, source, error.span().map_or(0, |span| span.start));
                self.errors
                    .add(&Origin::File(place), "", error.message(), true);
            }
        }
    }

    fn file_table(
        &mut self,
        fields: &[Field],
        prefix: &mut Vec<String>,
        table: &DeTable<'_>,
        path: &Path,
        source: &str,
    ) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            prefix.push(name.to_owned());
            let full = prefix.join(".");
            let key_origin = Origin::File(Place::at(path, source, key.span().start));
            if let Some(field) = fields.iter().find(|field| field.key == name) {
                match (&field.table, value.get_ref()) {
                    (Some(inner), DeValue::Table(table)) => {
                        self.file_table(inner, prefix, table, path, source)
                    }
                    (Some(_), other) => {
                        let message =
                            format!("is a table: write [{full}], not a {}", other.type_str());
                        self.errors.add(&key_origin, &full, &message, true);
                    }
                    (None, _) => {
                        let place = Place::at(path, source, value.span().start);
                        let origins = |span: usize| Origin::File(Place::at(path, source, span));
                        self.typed(field, prefix, convert(value), &Origin::File(place));
                        self.file_origins(prefix, value, &origins);
                    }
                }
            } else if let Found::Twin(field) = find(fields, &[name]) {
                self.twin(field, prefix, convert(value), key_origin);
            } else {
                self.unknown(&key_origin, &full, name, fields);
            }
            prefix.pop();
        }
    }

    /// Inside a value that is a map, each key has its own line.
    fn file_origins(
        &mut self,
        prefix: &mut Vec<String>,
        value: &Spanned<DeValue<'_>>,
        place: &dyn Fn(usize) -> Origin,
    ) {
        if let DeValue::Table(table) = value.get_ref() {
            for (key, inner) in table {
                prefix.push(key.get_ref().to_string());
                self.file_origins(prefix, inner, place);
                prefix.pop();
            }
        } else {
            self.origins
                .insert(prefix.join("."), place(value.span().start));
        }
    }

    /// Lays one text over it: a variable or `--set`. The type of the field decides how the text is read.
    pub(crate) fn text(&mut self, fields: &[Field], key: &str, text: &str, origin: Origin) {
        let path: Vec<&str> = key.split('.').collect();
        match find(fields, &path) {
            Found::Leaf(field, depth) => {
                let mut first_error = None;
                for candidate in candidates(text) {
                    let whole = wrap(path.get(depth..).unwrap_or_default(), candidate.clone());
                    let whole = self.merged(&path, depth, whole);
                    match (field.check)(whole) {
                        Ok(()) => {
                            let parts: Vec<String> =
                                path.iter().map(|&part| part.to_owned()).collect();
                            self.put(&parts, candidate, &origin);
                            return;
                        }
                        Err(error) => first_error = Some(first_error.unwrap_or(error)),
                    }
                }
                let message = first_error.unwrap_or_else(|| "has no value".to_owned());
                let message = if field.secret {
                    "has the wrong form".to_owned()
                } else {
                    format!("{message} (got {:?})", mask_url(text))
                };
                self.errors.add(&origin, key, &message, false);
            }
            Found::Twin(field) => {
                let parts: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
                self.twin(field, &parts, toml::Value::String(text.to_owned()), origin);
            }
            Found::Table => self
                .errors
                .add(&origin, key, "is a table: set one of its keys", false),
            Found::Unknown(siblings) => self.unknown(
                &origin,
                key,
                path.last().copied().unwrap_or_default(),
                siblings,
            ),
        }
    }

    /// Lays one typed value over it: a flag of a daemon.
    pub(crate) fn value(
        &mut self,
        fields: &[Field],
        key: &str,
        value: toml::Value,
        origin: &Origin,
    ) {
        let path: Vec<&str> = key.split('.').collect();
        let parts: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        match (find(fields, &path), value) {
            (Found::Leaf(field, depth), value) if depth == path.len() => {
                self.typed(field, &parts, value, origin)
            }
            (Found::Leaf(..), value) => self.put(&parts, value, origin),
            (Found::Twin(field), value) => self.twin(field, &parts, value, origin.clone()),
            (Found::Table, toml::Value::Table(table)) => {
                for (inner, value) in table {
                    self.value(fields, &format!("{key}.{inner}"), value, origin);
                }
            }
            (Found::Table, _) => self.errors.add(origin, key, "is a table", false),
            (Found::Unknown(siblings), _) => self.unknown(
                origin,
                key,
                path.last().copied().unwrap_or_default(),
                siblings,
            ),
        }
    }

    fn typed(&mut self, field: &Field, path: &[String], value: toml::Value, origin: &Origin) {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let whole = self.merged(&names, names.len(), value.clone());
        match (field.check)(whole) {
            Ok(()) => self.put(path, value, origin),
            Err(error) => {
                self.errors
                    .add(origin, &path.join("."), &one_line(&error), !field.secret)
            }
        }
    }

    /// What the leaf at `path[..depth]` would hold with `value` laid over what lower layers put there (matters for maps only).
    fn merged(&self, path: &[&str], depth: usize, value: toml::Value) -> toml::Value {
        let toml::Value::Table(over) = value else {
            return value;
        };
        let mut at = Some(&self.tree);
        let leaf = path.get(depth - 1).copied().unwrap_or_default();
        for part in path.iter().take(depth - 1) {
            at = at
                .and_then(|table| table.get(*part))
                .and_then(toml::Value::as_table);
        }
        let mut base = at
            .and_then(|table| table.get(leaf))
            .and_then(toml::Value::as_table)
            .cloned()
            .unwrap_or_default();
        merge(&mut base, over);
        toml::Value::Table(base)
    }

    fn twin(&mut self, field: &Field, path: &[String], value: toml::Value, origin: Origin) {
        let Some((_, parents)) = path.split_last() else {
            return;
        };
        let mut key = parents.to_vec();
        key.push(field.key.to_owned());
        let toml::Value::String(file) = value else {
            let message = format!(
                "must be the path or name of a file, not a {}",
                value.type_str()
            );
            return self.errors.add(&origin, &path.join("."), &message, true);
        };
        if file.is_empty() {
            self.secret_files.remove(&key.join("."));
        } else {
            self.secret_files.insert(key.join("."), (file, origin));
        }
    }

    fn put(&mut self, path: &[String], value: toml::Value, origin: &Origin) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let mut table = &mut self.tree;
        for part in parents {
            let slot = table
                .entry(part.as_str())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if !slot.is_table() {
                *slot = toml::Value::Table(toml::Table::new());
            }
            let toml::Value::Table(inner) = slot else {
                return;
            };
            table = inner;
        }
        self.origins.insert(path.join("."), origin.clone());
        match (table.get_mut(last), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => drop(table.insert(last.clone(), value)),
        }
    }

    fn unknown(&mut self, origin: &Origin, full: &str, name: &str, siblings: &[Field]) {
        let known = siblings.iter().map(|field| field.key);
        let hint = match nearest(name, known.clone()) {
            Some(near) => format!("unknown key, did you mean {near:?}?"),
            None => format!(
                "unknown key; known here: {}",
                known.collect::<Vec<_>>().join(", ")
            ),
        };
        self.errors.add(origin, full, &hint, true);
    }
}

/// Lays `over` upon `base`: tables merge, all else replaces.
pub(crate) fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(over)) => merge(inner, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// The ways a text may be meant, most literal first: the text itself, a TOML value, a comma separated list.
fn candidates(text: &str) -> Vec<toml::Value> {
    let mut all = vec![toml::Value::String(text.to_owned())];
    if let Ok(mut table) = format!("v = {text}").parse::<toml::Table>()
        && table.len() == 1
    {
        all.extend(table.remove("v"));
    }
    let items: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect();
    all.push(toml::Value::Array(
        items
            .iter()
            .map(|&item| toml::Value::String(item.to_owned()))
            .collect(),
    ));
    let parsed: Vec<toml::Value> = items
        .iter()
        .filter_map(|item| {
            format!("v = {item}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut table| table.remove("v"))
        })
        .collect();
    if parsed.len() == items.len() {
        all.push(toml::Value::Array(parsed));
    }
    all
}

fn wrap(path: &[&str], value: toml::Value) -> toml::Value {
    path.iter().rev().fold(value, |value, part| {
        let mut table = toml::Table::new();
        table.insert((*part).to_owned(), value);
        toml::Value::Table(table)
    })
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

fn convert(value: &Spanned<DeValue<'_>>) -> toml::Value {
    match value.get_ref() {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => toml::Value::Integer(number),
            // Too big for TOML's 64 bits: kept as text, so that the field refuses it with the text in the message.
            Err(_) => toml::Value::String(number.as_str().to_owned()),
        },
        DeValue::Float(number) => number.as_str().parse().map_or_else(
            |_| toml::Value::String(number.as_str().to_owned()),
            toml::Value::Float,
        ),
        DeValue::Boolean(truth) => toml::Value::Boolean(*truth),
        DeValue::Datetime(when) => toml::Value::Datetime(*when),
        DeValue::Array(items) => toml::Value::Array(items.iter().map(convert).collect()),
        DeValue::Table(table) => toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), convert(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigTable as _;
    use proptest::prelude::*;
    use std::collections::BTreeMap as Map;

    crate::config! {
        /// A table to lay layers over.
        struct Sample {
            /// A text.
            live name: String = "none".to_owned(),
            /// Numbers.
            live numbers: Vec<u32>,
            /// A whole number that may be absent.
            live maybe: Option<u16>,
            /// A share.
            live share: f64 = 0.5,
            /// A map with tables inside.
            restart pools: Map<String, Pool>,
        }
    }

    #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Pool {
        nodes: Vec<String>,
        weight: u32,
    }

    fn fresh() -> Layers {
        Layers::new(toml::Table::try_from(Sample::default()).unwrap())
    }

    fn sample(layers: &Layers) -> Sample {
        assert!(layers.errors.is_empty(), "{}", layers.errors);
        layers.tree.clone().try_into().unwrap()
    }

    #[test]
    fn maps_merge_by_key_and_arrays_replace() {
        let fields = Sample::fields();
        let mut layers = fresh();
        layers.file(
            &fields,
            Path::new("a.toml"),
            "numbers = [1, 2]\n[pools.web]\nnodes = [\"a\", \"b\"]\nweight = 2\n",
        );
        layers.file(
            &fields,
            Path::new("b.toml"),
            "numbers = [3]\n[pools.web]\nweight = 5\n[pools.other]\nnodes = [\"c\"]\n",
        );
        layers.text(
            &fields,
            "pools.other.weight",
            "7",
            Origin::Flag("--set".to_owned()),
        );
        let merged = sample(&layers);
        assert_eq!(merged.numbers, [3]);
        assert_eq!(
            merged.pools.get("web"),
            Some(&Pool {
                nodes: vec!["a".to_owned(), "b".to_owned()],
                weight: 5
            })
        );
        assert_eq!(merged.pools.get("other").map(|pool| pool.weight), Some(7));
        let short = |key: &str| layers.origins.get(key).map(Origin::short);
        assert_eq!(short("pools.web.nodes"), Some("a.toml:3".to_owned()));
        assert_eq!(short("pools.web.weight"), Some("b.toml:3".to_owned()));
        assert_eq!(short("numbers"), Some("b.toml:1".to_owned()));
    }

    #[test]
    fn a_wrong_key_inside_a_map_is_refused() {
        let mut layers = fresh();
        layers.file(
            &Sample::fields(),
            Path::new("a.toml"),
            "[pools.web]\nwieght = 2\n",
        );
        let said = layers.errors.to_string();
        assert!(
            said.contains("a.toml:1") && said.contains("wieght"),
            "{said}"
        );
    }

    #[test]
    fn texts_are_read_as_the_fields_type() {
        let fields = Sample::fields();
        let mut layers = fresh();
        for (key, text) in [
            ("name", "007"),
            ("numbers", "1, 2,3"),
            ("maybe", "9"),
            ("share", "0.25"),
        ] {
            layers.text(&fields, key, text, Origin::Env("X".to_owned()));
        }
        let read = sample(&layers);
        assert_eq!(
            (
                read.name.as_str(),
                read.numbers.as_slice(),
                read.maybe,
                read.share
            ),
            ("007", [1, 2, 3].as_slice(), Some(9), 0.25)
        );
        layers.text(&fields, "numbers", "", Origin::Env("X".to_owned()));
        assert!(sample(&layers).numbers.is_empty());
        layers.text(&fields, "maybe", "70000", Origin::Env("X".to_owned()));
        assert!(
            layers.errors.to_string().contains("got \"70000\""),
            "{}",
            layers.errors
        );
    }

    proptest! {
        /// Whatever a file holds, it is taken or refused with a place; nothing panics.
        #[test]
        fn any_file_is_survived(source in "[a-z\\[\\]=\"{}., 0-9\n#._-]{0,120}") {
            let mut layers = fresh();
            layers.file(&Sample::fields(), Path::new("f.toml"), &source);
            for message in layers.errors.messages() {
                prop_assert!(message.starts_with("f.toml:"), "{message}");
            }
        }

        /// Any text survives the way through a variable into a text field unchanged.
        #[test]
        fn any_text_reaches_a_text_field(value in "\\PC{0,40}") {
            let mut layers = fresh();
            layers.text(&Sample::fields(), "name", &value, Origin::Env("X".to_owned()));
            prop_assert_eq!(sample(&layers).name, value);
        }
    }
}
