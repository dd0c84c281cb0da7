//! A configuration as text: effective with origins, or the reference file with documentation.
//!
//! Owns what `--print-config`, `/-/config` and `deploy/examples/*.toml` look like. Every output is itself a valid
//! configuration file; secrets appear as `***` and never as they are.

use super::error::Origin;
use super::layers::Layers;
use super::load::Schema;
use super::schema::{Field, Reload};
use super::secret::mask_url;

/// How a secret is shown.
const MASK: &str = "***";

/// A value on one line, passwords in URLs masked.
pub(crate) fn value_text(value: &toml::Value) -> String {
    masked(value).to_string()
}

fn masked(value: &toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) => toml::Value::String(mask_url(text)),
        toml::Value::Array(items) => toml::Value::Array(items.iter().map(masked).collect()),
        toml::Value::Table(table) => toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.clone(), hide(key, value)))
                .collect(),
        ),
        toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => value.clone(),
    }
}

/// Inside maps there is no schema; a telling key hides its text all the same.
fn hide(key: &str, value: &toml::Value) -> toml::Value {
    let telling = ["password", "secret", "token"]
        .iter()
        .any(|word| key.ends_with(word));
    let filled = value.as_str().is_some_and(|text| !text.is_empty());
    if telling && filled {
        toml::Value::String(MASK.to_owned())
    } else {
        masked(value)
    }
}

/// A key, quoted where TOML asks for it.
fn key_text(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare {
        key.to_owned()
    } else {
        toml::Value::String(key.to_owned()).to_string()
    }
}

/// The effective configuration with the origin of every value.
pub(crate) fn effective(schema: &Schema, layers: &Layers) -> String {
    let mut out = String::new();
    table(&mut out, &schema.fields, &layers.tree, "", layers);
    out
}

fn table(out: &mut String, fields: &[Field], tree: &toml::Table, prefix: &str, layers: &Layers) {
    let origin = |path: &str| {
        layers
            .origins
            .get(path)
            .map_or_else(|| Origin::Default.short(), Origin::short)
    };
    let mut maps = Vec::new();
    for field in fields.iter().filter(|field| field.table.is_none()) {
        let path = format!("{prefix}{}", field.key);
        if let Some((file, from)) = layers.secret_files.get(&path) {
            line(
                out,
                &format!("{}_file", field.key),
                &toml::Value::String(file.clone()),
                &from.short(),
            );
            continue;
        }
        match tree.get(field.key) {
            Some(toml::Value::String(text)) if field.secret => {
                let shown = if text.is_empty() { "" } else { MASK };
                line(
                    out,
                    field.key,
                    &toml::Value::String(shown.to_owned()),
                    &origin(&path),
                );
            }
            Some(toml::Value::Table(inner)) => maps.push((path, inner)),
            Some(toml::Value::Array(items)) if items.iter().any(toml::Value::is_table) => {
                line(
                    out,
                    field.key,
                    &masked(&toml::Value::Array(items.clone())),
                    &origin(&path),
                );
            }
            Some(value) => line(out, field.key, &masked(value), &origin(&path)),
            None => {}
        }
    }
    for (path, inner) in maps {
        map(out, inner, &path, layers);
    }
    for field in fields {
        if let (Some(inner), Some(toml::Value::Table(values))) = (&field.table, tree.get(field.key))
        {
            let path = format!("{prefix}{}", field.key);
            put!(out, "\n[{path}]\n");
            table(out, inner, values, &format!("{path}."), layers);
        }
    }
}

/// A value that is a map: its own table, its parts below.
fn map(out: &mut String, values: &toml::Table, path: &str, layers: &Layers) {
    put!(
        out,
        "\n[{}]\n",
        path.split('.').map(key_text).collect::<Vec<_>>().join(".")
    );
    let mut inner = Vec::new();
    for (key, value) in values {
        let full = format!("{path}.{key}");
        if let toml::Value::Table(table) = value {
            inner.push((full, table));
            continue;
        }
        let origin = layers
            .origins
            .get(&full)
            .or_else(|| layers.origins.get(path));
        let origin = origin.map_or_else(|| Origin::Default.short(), Origin::short);
        line(out, key, &hide(key, value), &origin);
    }
    for (path, table) in inner {
        map(out, table, &path, layers);
    }
}

fn line(out: &mut String, key: &str, value: &toml::Value, origin: &str) {
    putln!(out, "{} = {value}  # {origin}", key_text(key));
}

/// The reference file: every key with its documentation and default.
pub(crate) fn reference(schema: &Schema, name: &str) -> String {
    let mut out = format!(
        "# {name}: every option with its default. Generated by `{name} --print-config=defaults`.\n"
    );
    reference_table(&mut out, &schema.fields, &schema.defaults, "");
    out
}

fn reference_table(out: &mut String, fields: &[Field], tree: &toml::Table, prefix: &str) {
    for field in fields.iter().filter(|field| field.table.is_none()) {
        out.push('\n');
        for text in field.doc.lines() {
            putln!(
                out,
                "#{}{text}",
                if text.starts_with(' ') || text.is_empty() {
                    ""
                } else {
                    " "
                }
            );
        }
        if field.reload == Reload::Live {
            out.push_str("# Changes on reload.\n");
        }
        match tree.get(field.key) {
            Some(_) if field.secret => putln!(out, "{}_file = \"\"", field.key),
            Some(value) => putln!(out, "{} = {value}", field.key),
            None => putln!(out, "# {} =", field.key),
        }
    }
    for field in fields {
        if let (Some(inner), Some(toml::Value::Table(values))) = (&field.table, tree.get(field.key))
        {
            out.push('\n');
            for text in field.doc.lines() {
                putln!(
                    out,
                    "#{}{text}",
                    if text.starts_with(' ') || text.is_empty() {
                        ""
                    } else {
                        " "
                    }
                );
            }
            putln!(out, "[{prefix}{}]", field.key);
            reference_table(out, inner, values, &format!("{prefix}{}.", field.key));
        }
    }
}
