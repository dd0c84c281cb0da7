//! Help, man page and shell completions, all from the flag definitions and the configuration table.
//!
//! Owns the command as clap sees it, and the sections of the man page that clap does not know. It prints nothing itself.

use clap_mangen::roff::{Roff, bold, roman};

use crate::about::About;
use crate::args::{CommonArgs, DaemonArgs};
use crate::config::load::Schema;
use crate::config::schema::{Field, Reload};

/// The signals of every daemon: name and effect.
const SIGNALS: [(&str, &str); 7] = [
    (
        "SIGTERM, SIGINT",
        "stop: finish the work in flight within shutdown.grace; a second one stops at once",
    ),
    ("SIGHUP", "reload the configuration"),
    ("SIGUSR1", "write a summary to the log"),
    (
        "SIGUSR2",
        "toggle lame duck: /readyz says no, everything is served on",
    ),
    ("SIGQUIT", "write all tasks to the log and abort"),
    ("SIGPIPE", "ignored"),
    (
        "SIGKILL",
        "safe at any moment: no repair is needed at the next start",
    ),
];

/// The exit codes: code and meaning.
const EXITS: [(&str, &str); 7] = [
    ("0", "clean stop, help, version, check ok"),
    ("64", "usage"),
    ("69", "a listener could not be opened"),
    ("70", "a bug"),
    ("74", "store or state directory unusable"),
    ("75", "temporary: a dependency stayed away"),
    ("78", "configuration"),
];

/// The daemon's command with its name, version and the long help's last part.
pub(crate) fn command<A: DaemonArgs>(about: &About, schema: &Schema) -> clap::Command {
    let mut after = format!(
        "Configuration: {} (and {}), IBEX_ variables, flags; see --print-config=defaults.\n\
         Admin HTTP: 127.0.0.1:{} (/metrics, /healthz, /readyz, status page at /).\nSignals:\n",
        about.default_config().display(),
        about
            .default_config()
            .with_extension("d")
            .join("*.toml")
            .display(),
        about.admin_port
    );
    if let Some(listen) = schema.defaults.get("listen") {
        after.insert_str(0, &format!("Default ports: {listen}.\n"));
    }
    for (name, effect) in SIGNALS.iter().take(5) {
        putln!(after, "  {name}: {effect}");
    }
    put!(after, "Manual: man 8 {}", about.name);
    let shared = <CommonArgs as clap::Args>::augment_args(clap::Command::new("shared"));
    let shared: Vec<clap::Id> = shared
        .get_arguments()
        .map(|arg| arg.get_id().clone())
        .collect();
    // Under their own heading, so that the daemon's own flags come first and stand out.
    let heading = |arg: clap::Arg| {
        if shared.contains(arg.get_id()) {
            arg.help_heading("Options of every daemon")
        } else {
            arg
        }
    };
    A::command()
        .name(about.name)
        .bin_name(about.name)
        .about(about.summary)
        .version(about.version_line())
        .after_long_help(after)
        .mut_args(heading)
}

/// Completions for a shell.
pub(crate) fn completions<A: DaemonArgs>(
    about: &About,
    schema: &Schema,
    shell: clap_complete::Shell,
) -> String {
    let mut out = Vec::new();
    clap_complete::generate(
        shell,
        &mut command::<A>(about, schema),
        about.name,
        &mut out,
    );
    String::from_utf8_lossy(&out).into_owned()
}

/// The man page in roff.
pub(crate) fn man<A: DaemonArgs>(about: &About, schema: &Schema) -> std::io::Result<String> {
    let page = clap_mangen::Man::new(command::<A>(about, schema))
        .section("8")
        .title(about.name.to_uppercase())
        .manual("Ibex");
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    if !about.original_flags.is_empty() {
        let mut roff = Roff::new();
        roff.control("SH", ["COMPATIBILITY"]);
        roff.text([roman(about.original_flags)]);
        roff.to_writer(&mut out)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["CONFIGURATION"]);
    roff.text([roman("Every key, with its default. Layers, lowest first: defaults, file, fragments, IBEX_ variables, flags.")]);
    keys(&mut roff, &schema.fields, &schema.defaults, "");
    list(
        &mut roff,
        "SIGNALS",
        SIGNALS
            .iter()
            .map(|(name, effect)| ((*name).to_owned(), (*effect).to_owned())),
    );
    list(
        &mut roff,
        "EXIT STATUS",
        EXITS
            .iter()
            .map(|(code, meaning)| ((*code).to_owned(), (*meaning).to_owned())),
    );
    list(&mut roff, "FILES", files(about).into_iter());
    list(&mut roff, "ENVIRONMENT", environment().into_iter());
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("ibex"), roman("(1)")]);
    roff.to_writer(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn files(about: &About) -> Vec<(String, String)> {
    vec![
        (
            about.default_config().display().to_string(),
            "configuration, if it exists".to_owned(),
        ),
        (
            about
                .default_config()
                .with_extension("d")
                .join("*.toml")
                .display()
                .to_string(),
            "fragments, in name order".to_owned(),
        ),
        (
            format!("/var/lib/ibex/{}/", about.short),
            "state".to_owned(),
        ),
        (format!("/run/ibex/{}/", about.short), "sockets".to_owned()),
    ]
}

fn environment() -> Vec<(String, String)> {
    [
        (
            "IBEX_KEY, IBEX_TABLE__KEY",
            "any configuration key in upper case; lists are comma separated",
        ),
        (
            "IBEX_LOG",
            "log filter; RUST_LOG is read when it is not set",
        ),
        ("IBEX_PORT_FILE", "a file to write the bound addresses to"),
        ("NO_COLOR", "no colours"),
        (
            "STATE_DIRECTORY, CREDENTIALS_DIRECTORY",
            "as systemd sets them",
        ),
        (
            "LISTEN_FDS, LISTEN_FDNAMES, NOTIFY_SOCKET, WATCHDOG_USEC",
            "socket activation and notification",
        ),
    ]
    .map(|(name, meaning)| (name.to_owned(), meaning.to_owned()))
    .to_vec()
}

fn list(roff: &mut Roff, title: &str, items: impl Iterator<Item = (String, String)>) {
    roff.control("SH", [title]);
    for (name, text) in items {
        roff.control("TP", []);
        roff.text([bold(name)]);
        roff.text([roman(text)]);
    }
}

fn keys(roff: &mut Roff, fields: &[Field], defaults: &toml::Table, prefix: &str) {
    for field in fields {
        let path = format!("{prefix}{}", field.key);
        let default = defaults.get(field.key);
        if let Some(inner) = &field.table {
            let empty = toml::Table::new();
            keys(
                roff,
                inner,
                default.and_then(toml::Value::as_table).unwrap_or(&empty),
                &format!("{path}."),
            );
            continue;
        }
        roff.control("TP", []);
        let shown = default
            .filter(|_| !field.secret)
            .map_or_else(String::new, |value| format!(" = {value}"));
        roff.text([bold(path.clone()), roman(shown)]);
        let live = if field.reload == Reload::Live {
            " Changes on reload."
        } else {
            ""
        };
        let twin = if field.secret {
            format!(" Or {path}_file.")
        } else {
            String::new()
        };
        roff.text([roman(format!(
            "{}{twin}{live}",
            field.doc.split_whitespace().collect::<Vec<_>>().join(" ")
        ))]);
    }
}
