//! From sources to one checked configuration.
//!
//! Owns the order of the layers, which files are read, which variables count, and the final check. The same value
//! ([`Sources`]) is used at start, by `--check-config`, and again by every reload.

use std::path::{Path, PathBuf};

use super::common::{AdminConfig, Common};
use super::error::{Errors, Origin};
use super::layers::{Layers, merge};
use super::schema::{ConfigTable, Field, Validate};
use super::secret;
use super::suggest::nearest;
use crate::about::About;

/// Variables with our prefix that are not configuration keys.
const RESERVED: [&str; 3] = ["IBEX_PORT_FILE", "IBEX_LOG", "IBEX_DETACHED"];
const RESERVED_PREFIXES: [&str; 2] = ["IBEX_SIM_", "IBEX_TEST_"];

/// All keys and defaults of one daemon: the kit's own tables and the daemon's.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) fields: Vec<Field>,
    pub(crate) defaults: toml::Table,
}

impl Schema {
    /// The daemon's fields, then the kit's that it did not list.
    pub(crate) fn of<C: ConfigTable>(about: &About) -> Result<Self, Errors> {
        let common = Common {
            admin: AdminConfig::for_port(about.admin_port),
            ..Common::default()
        };
        let mut defaults = to_tree(&common)?;
        merge(&mut defaults, to_tree(&C::default())?);
        let mut fields = C::fields();
        add_fields(&mut fields, Common::fields());
        Ok(Self { fields, defaults })
    }
}

fn add_fields(own: &mut Vec<Field>, kit: Vec<Field>) {
    for field in kit {
        match own.iter_mut().find(|known| known.key == field.key) {
            Some(known) => {
                if let (Some(own), Some(kit)) = (&mut known.table, field.table) {
                    add_fields(own, kit);
                }
            }
            None => own.push(field),
        }
    }
}

fn to_tree<T: serde::Serialize>(value: &T) -> Result<toml::Table, Errors> {
    toml::Table::try_from(value)
        .map_err(|error| Errors::one(format!("defaults cannot be written as TOML: {error}")))
}

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// `--config FILE`: must exist.
    pub(crate) named_file: Option<PathBuf>,
    /// The default path: may be missing.
    pub(crate) default_file: PathBuf,
    /// The environment, as read at start.
    pub(crate) env: Vec<(String, String)>,
    /// Texts from `--set` and the kit's flags: key, text, flag as written.
    pub(crate) texts: Vec<(String, String, String)>,
    /// Typed values from the daemon's own flags.
    pub(crate) values: Vec<(String, toml::Value)>,
}

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub(crate) struct Loaded<C> {
    pub(crate) config: C,
    pub(crate) common: Common,
    pub(crate) layers: Layers,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) warnings: Vec<String>,
}

impl Sources {
    /// Loads and checks everything; on error nothing has changed anywhere.
    pub(crate) fn load<C: ConfigTable + Validate>(
        &self,
        schema: &Schema,
    ) -> Result<Loaded<C>, Errors> {
        let mut layers = Layers::new(schema.defaults.clone());
        let files = self.files()?;
        for path in &files {
            match std::fs::read_to_string(path) {
                Ok(source) => layers.file(&schema.fields, path, &source),
                Err(error) => return Err(Errors::one(format!("{}: {error}", path.display()))),
            }
        }
        self.environment(schema, &mut layers);
        for (key, text, flag) in &self.texts {
            layers.text(&schema.fields, key, text, Origin::Flag(flag.clone()));
        }
        for (key, value) in &self.values {
            layers.value(
                &schema.fields,
                key,
                value.clone(),
                &Origin::Flag("command line".to_owned()),
            );
        }
        let mut warnings = Vec::new();
        self.secrets(&mut layers, &mut warnings);
        if !layers.errors.is_empty() {
            return Err(layers.errors);
        }
        finish(schema, layers, files, warnings)
    }

    fn files(&self) -> Result<Vec<PathBuf>, Errors> {
        let main = match &self.named_file {
            Some(path) if !path.is_file() => {
                return Err(Errors::one(format!(
                    "{}: no such file (given with --config)",
                    path.display()
                )));
            }
            Some(path) => path,
            None => &self.default_file,
        };
        let mut files: Vec<PathBuf> = main.is_file().then(|| main.clone()).into_iter().collect();
        let fragments = main.with_extension("d");
        if fragments.is_dir() {
            let entries = std::fs::read_dir(&fragments)
                .map_err(|error| Errors::one(format!("{}: {error}", fragments.display())))?;
            let mut more: Vec<PathBuf> = entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| is_fragment(path))
                .collect();
            more.sort();
            files.extend(more);
        }
        Ok(files)
    }

    fn environment(&self, schema: &Schema, layers: &mut Layers) {
        let variable = |name: &str| {
            self.env
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        for name in ["IBEX_LOG", "RUST_LOG"] {
            if let Some(level) = variable(name).filter(|level| !level.is_empty()) {
                layers.text(
                    &schema.fields,
                    "log.level",
                    level,
                    Origin::Env(name.to_owned()),
                );
                break;
            }
        }
        for (name, value) in &self.env {
            let Some(rest) = name.strip_prefix("IBEX_") else {
                continue;
            };
            if RESERVED.contains(&name.as_str())
                || RESERVED_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            {
                continue;
            }
            let key = rest.replace("__", ".").to_lowercase();
            let known = variables(&schema.fields, "IBEX_");
            let maps = schema
                .fields
                .iter()
                .any(|field| field.table.is_none() && key.starts_with(&format!("{}.", field.key)));
            if known.iter().any(|known| known == name) || maps {
                layers.text(&schema.fields, &key, value, Origin::Env(name.clone()));
            } else {
                let hint = nearest(name, known.iter().map(String::as_str))
                    .map_or_else(String::new, |near| format!(", did you mean {near}?"));
                layers.errors.add(
                    &Origin::Env(name.clone()),
                    "",
                    &format!("names no configuration key{hint}"),
                    false,
                );
            }
        }
    }

    fn secrets(&self, layers: &mut Layers, warnings: &mut Vec<String>) {
        let credentials = self
            .env
            .iter()
            .find(|(name, _)| name == "CREDENTIALS_DIRECTORY")
            .map(|(_, value)| PathBuf::from(value));
        for (key, (file, origin)) in layers.secret_files.clone() {
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            if leaf(&layers.tree, &key)
                .and_then(toml::Value::as_str)
                .is_some_and(|text| !text.is_empty())
            {
                layers.errors.add(
                    &origin,
                    &format!("{key}_file"),
                    &format!("both {key} and {key}_file are set: remove one"),
                    true,
                );
                continue;
            }
            match secret::read(&file, credentials.as_deref()) {
                Ok(found) => {
                    warnings.extend(found.warning);
                    set(&mut layers.tree, &path, toml::Value::String(found.text));
                }
                Err(error) => layers
                    .errors
                    .add(&origin, &format!("{key}_file"), &error, true),
            }
        }
    }
}

fn is_fragment(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "toml")
        && path.is_file()
}

fn finish<C: ConfigTable + Validate>(
    schema: &Schema,
    mut layers: Layers,
    files: Vec<PathBuf>,
    mut warnings: Vec<String>,
) -> Result<Loaded<C>, Errors> {
    let config: C = prune(&layers.tree, &C::fields())
        .try_into()
        .map_err(|error: toml::de::Error| Errors::one(error.to_string()))?;
    let common: Common = prune(&layers.tree, &Common::fields())
        .try_into()
        .map_err(|error: toml::de::Error| Errors::one(error.to_string()))?;
    let problems = [common.validate(), config.validate()]
        .into_iter()
        .filter_map(Result::err)
        .flatten();
    for problem in problems {
        let origin = layers
            .origins
            .get(&problem.key)
            .cloned()
            .unwrap_or(Origin::Default);
        let shown = leaf(&layers.tree, &problem.key)
            .filter(|_| !is_secret(&schema.fields, &problem.key))
            .map_or_else(String::new, |value| {
                let text = super::print::value_text(value);
                format!(" (got {text})")
            });
        layers.errors.add(
            &origin,
            &problem.key,
            &format!("{}{shown}", problem.message),
            true,
        );
    }
    if !layers.errors.is_empty() {
        return Err(layers.errors);
    }
    warnings.extend(config.warnings());
    Ok(Loaded {
        config,
        common,
        layers,
        files,
        warnings,
    })
}

/// The part of the tree a struct knows.
pub(crate) fn prune(tree: &toml::Table, fields: &[Field]) -> toml::Table {
    let mut out = toml::Table::new();
    for field in fields {
        match (tree.get(field.key), &field.table) {
            (Some(toml::Value::Table(inner)), Some(fields)) => drop(out.insert(
                field.key.to_owned(),
                toml::Value::Table(prune(inner, fields)),
            )),
            (Some(value), _) => drop(out.insert(field.key.to_owned(), value.clone())),
            (None, _) => {}
        }
    }
    out
}

/// Every leaf key as a path.
pub(crate) fn keys(fields: &[Field], prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    for field in fields {
        let path = format!("{prefix}{}", field.key);
        match &field.table {
            Some(inner) => all.extend(keys(inner, &format!("{path}."))),
            None => {
                if field.secret {
                    all.push(format!("{path}_file"));
                }
                all.push(path);
            }
        }
    }
    all
}

/// Every variable that names a key.
fn variables(fields: &[Field], prefix: &str) -> Vec<String> {
    keys(fields, "")
        .into_iter()
        .map(|key| format!("{prefix}{}", key.replace('.', "__").to_uppercase()))
        .collect()
}

/// The field of a key path.
pub(crate) fn field<'a>(fields: &'a [Field], key: &str) -> Option<&'a Field> {
    let (head, rest) = key
        .split_once('.')
        .map_or((key, None), |(head, rest)| (head, Some(rest)));
    let found = fields.iter().find(|field| field.key == head)?;
    match (rest, &found.table) {
        (Some(rest), Some(inner)) => field(inner, rest),
        (Some(_) | None, _) => Some(found),
    }
}

pub(crate) fn is_secret(fields: &[Field], key: &str) -> bool {
    field(fields, key).is_some_and(|field| field.secret)
}

/// The value at a key path.
pub(crate) fn leaf<'a>(tree: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let (head, rest) = key
        .split_once('.')
        .map_or((key, None), |(head, rest)| (head, Some(rest)));
    let value = tree.get(head)?;
    match rest {
        Some(rest) => value.as_table().and_then(|table| leaf(table, rest)),
        None => Some(value),
    }
}

pub(crate) fn set(tree: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [last] => drop(tree.insert(last.clone(), value)),
        [head, rest @ ..] => {
            if let toml::Value::Table(inner) = tree
                .entry(head.as_str())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            {
                set(inner, rest, value);
            }
        }
    }
}
