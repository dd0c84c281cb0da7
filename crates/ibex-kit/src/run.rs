//! [`main`]: from the command line to the exit code.
//!
//! Owns the order of a start (spec/ops.md 5.2). Each step has its own module; here they follow each other.

use std::io::Write as _;
use std::process::ExitCode;

use tracing::{info, warn};

use crate::about::About;
use crate::args::{CommonArgs, DaemonArgs, Detach, PrintConfig};
use crate::config::common::Common;
use crate::config::error::Errors;
use crate::config::load::{Loaded, Schema, Sources};
use crate::config::print;
use crate::config::schema::{ConfigTable, Validate};
use crate::config::types::OptionalAddr;
use crate::control;
use crate::failure::{Failure, Kind};
use crate::kit::{self, Kit, Parts};
use crate::reload::Reloader;
use crate::{generate, healthcheck, life, limits, logging, passed};

/// The whole life of a daemon. `run` binds its listeners, calls [`Kit::ready`], and returns when [`Kit::draining`] is cancelled.
pub fn main<A, C, F>(about: About, run: F) -> ExitCode
where
    A: DaemonArgs,
    C: ConfigTable + Validate,
    F: AsyncFnOnce(C, Kit) -> Result<(), Failure>,
{
    match start::<A, C, F>(about, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(End::Quiet(code)) => ExitCode::from(code),
        Err(End::Failure(failure)) => {
            // The last line says what, where and what to do; if stderr is gone there is nobody to tell.
            let _ignored = writeln!(std::io::stderr(), "{}: {failure}", about.name).is_ok();
            failure.exit_code()
        }
    }
}

/// The configuration as the daemon of `args` would have it, for a subcommand that does one thing and ends; logging is started,
/// nothing is bound. Problems have been printed when this fails.
///
/// # Errors
/// [`Kind::Config`] for a configuration that makes no sense, [`Kind::Usage`] for a `--set` without `=`.
pub fn load<A, C>(about: &About, args: &A) -> Result<C, Failure>
where
    A: DaemonArgs,
    C: ConfigTable + Validate,
{
    let schema = Schema::of::<C>(about).map_err(|errors| Failure::bug(errors.to_string()))?;
    let loaded: Loaded<C> = sources(about, args)?
        .load(&schema)
        .map_err(|errors| refuse(&errors))?;
    let node = kit::node_name(&loaded.common);
    logging::start(about, &node, &loaded.common.log).map_err(Failure::config)?;
    Ok(loaded.config)
}

/// An end that is not a clean stop.
enum End {
    /// Everything was said already.
    Quiet(u8),
    Failure(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Prints what was asked for.
fn print(text: &str) -> Result<(), End> {
    let mut out = std::io::stdout().lock();
    // A closed pipe is the reader's choice.
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::io(format!("standard output: {error}")).into()),
    }
}

fn start<A, C, F>(about: About, run: F) -> Result<(), End>
where
    A: DaemonArgs,
    C: ConfigTable + Validate,
    F: AsyncFnOnce(C, Kit) -> Result<(), Failure>,
{
    let passed = passed::take();
    let schema = Schema::of::<C>(&about).map_err(|errors| Failure::bug(errors.to_string()))?;
    let args: A = parse(&about, &schema)?;
    if let Some(text) = args.answer() {
        return print(&text);
    }
    if let Some(text) = generated::<A>(&about, args.common(), &schema)? {
        return print(&text);
    }
    let sources = sources(&about, &args)?;
    let loaded: Loaded<C> = sources.load(&schema).map_err(|errors| refuse(&errors))?;
    if let Some(answered) = asked(args.common(), &schema, &loaded) {
        return answered;
    }
    let detach = args.detach();
    if crate::detach::leave_terminal(&detach)? {
        return Ok(());
    }
    let mut common = loaded.common.clone();
    let node = kit::node_name(&common);
    logging::start(&about, &node, &common.log).map_err(Failure::config)?;
    announce(&about, &node, &loaded, &args.ignored());
    limits::raise_open_files(&mut common);
    limits::check_memory(&common);
    let result = launch(
        about,
        common,
        &detach,
        passed,
        Reloader::new(schema, sources, &loaded),
    )
    .and_then(|kit| {
        let result = life::live(loaded.config, &kit, run);
        kit.remove_own_sockets();
        result
    });
    crate::detach::remove_pid_file(&detach);
    if result.is_ok() {
        info!("bye");
    }
    result.map_err(End::from)
}

/// Texts that need no configuration: man page, completions, reference file.
fn generated<A: DaemonArgs>(
    about: &About,
    common: &CommonArgs,
    schema: &Schema,
) -> Result<Option<String>, Failure> {
    if common.generate_man {
        let page = generate::man::<A>(about, schema);
        return page
            .map(Some)
            .map_err(|error| Failure::bug(format!("man page: {error}")));
    }
    if let Some(shell) = common.generate_completions {
        return Ok(Some(generate::completions::<A>(about, schema, shell)));
    }
    let reference = common.print_config == Some(PrintConfig::Defaults);
    Ok(reference.then(|| print::reference(schema, about.name)))
}

/// Everything that is wrong goes to stderr; the first of it makes the last line.
fn refuse(errors: &Errors) -> Failure {
    // One short problem is the last line itself.
    if errors.messages().len() > 1 || errors.to_string().contains('\n') {
        // If stderr is gone there is nobody to tell.
        let _ignored = writeln!(std::io::stderr(), "{errors}").is_ok();
    }
    let first = errors
        .messages()
        .first()
        .map_or("", |message| message.as_str());
    let first = first.lines().next().unwrap_or_default();
    let more = errors.messages().len().saturating_sub(1);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Failure::config(format!(
        "configuration: {first}{more} (correct it, then try --check-config)"
    ))
}

/// Questions about a configuration that end the program.
fn asked<C: ConfigTable + Validate>(
    common: &CommonArgs,
    schema: &Schema,
    loaded: &Loaded<C>,
) -> Option<Result<(), End>> {
    if common.print_config.is_some() {
        return Some(print(&print::effective(schema, &loaded.layers)));
    }
    if common.check_config {
        return Some(check(common, loaded));
    }
    common.healthcheck.then(|| {
        let (healthy, text) = healthcheck::ask(&loaded.common.admin);
        print(&text)?;
        if healthy { Ok(()) } else { Err(End::Quiet(1)) }
    })
}

/// The first lines of the log.
fn announce<C>(about: &About, node: &str, loaded: &Loaded<C>, ignored: &[String]) {
    info!(
        version = about.version,
        pid = std::process::id(),
        node,
        "{} starts",
        about.name
    );
    let files: Vec<String> = loaded
        .files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let files = if files.is_empty() {
        "built-in defaults".to_owned()
    } else {
        files.join(",")
    };
    info!(files, "configuration");
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    for flag in ignored {
        warn!(flag = %flag, "ignored for compatibility");
    }
}

/// Admin port, kit, control thread.
fn launch(
    about: About,
    common: Common,
    detach: &Detach,
    mut passed: passed::Passed,
    reloader: Reloader,
) -> Result<Kit, Failure> {
    let admin = admin_listener(&common.admin.listen, &mut passed)?;
    let port_file = std::env::var_os("IBEX_PORT_FILE")
        .filter(|path| !path.is_empty())
        .map(Into::into);
    let kit = Kit::new(Parts {
        about,
        common,
        reloader,
        passed,
        port_file,
    });
    for listener in &admin {
        info!(listener = "admin", address = %listener.address(), "listening");
        kit.publish("admin", listener.address());
    }
    kit.own_unix_socket(&kit.common().admin.listen);
    crate::detach::become_user(detach)?;
    control::start(&kit, admin)?;
    Ok(kit)
}

fn parse<A: DaemonArgs>(about: &About, schema: &Schema) -> Result<A, End> {
    let command = generate::command::<A>(about, schema);
    let given = A::arguments(std::env::args_os().collect()).map_err(Failure::usage)?;
    let parsed = command
        .try_get_matches_from(given)
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        use clap::error::ErrorKind;
        let asked = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        // clap prints help to stdout and errors to stderr; a closed pipe changes nothing about the outcome.
        let _ignored = error.print().is_ok();
        End::Quiet(if asked { 0 } else { Kind::Usage.code() })
    })
}

fn sources<A: DaemonArgs>(about: &About, args: &A) -> Result<Sources, Failure> {
    let common = args.common();
    let mut texts = Vec::new();
    for pair in &common.set {
        let Some((key, text)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--set {pair}: write KEY=VALUE")));
        };
        texts.push((
            key.trim().to_owned(),
            text.to_owned(),
            format!("--set {key}"),
        ));
    }
    let flag = |key: &str, text: &Option<String>, flag: &str| {
        text.as_ref()
            .map(|text| (key.to_owned(), text.clone(), flag.to_owned()))
    };
    texts.extend(flag("admin.listen", &common.admin, "--admin"));
    texts.extend(flag("log.level", &common.log_level, "--log-level"));
    texts.extend(flag("log.format", &common.log_format, "--log-format"));
    if let (Some(key), false) = (A::listen_key(), common.listen.is_empty()) {
        texts.push((
            key.to_owned(),
            common.listen.join(","),
            "--listen".to_owned(),
        ));
    }
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        match value.to_str() {
            Some(value) => env.push((name.to_owned(), value.to_owned())),
            None if name.starts_with("IBEX_") => {
                return Err(Failure::config(format!(
                    "environment variable {name} is not UTF-8"
                )));
            }
            None => {}
        }
    }
    Ok(Sources {
        named_file: common.config.clone(),
        default_file: about.default_config(),
        env,
        texts,
        values: args.settings(),
    })
}

/// `--check-config`: everything was checked by loading; `--deep` asks the outside world too.
fn check<C: ConfigTable + Validate>(common: &CommonArgs, loaded: &Loaded<C>) -> Result<(), End> {
    for warning in &loaded.warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    if common.deep {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::io(format!("runtime: {error}")))?;
        if let Err(problems) = runtime.block_on(loaded.config.check_deep()) {
            let lines: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.key, problem.message))
                .collect();
            return Err(Failure::config(format!("configuration: {}", lines.join("\n"))).into());
        }
    }
    print("ok\n")
}

fn admin_listener(
    addr: &OptionalAddr,
    passed: &mut passed::Passed,
) -> Result<Vec<crate::listen::Listener>, Failure> {
    let OptionalAddr::At(addr) = addr else {
        return Ok(Vec::new());
    };
    let name = match addr {
        crate::ListenAddr::Fd(name) => name.as_str(),
        crate::ListenAddr::Tcp { .. } | crate::ListenAddr::Unix(_) => "admin",
    };
    match passed.sockets.remove(name) {
        Some(fds) => fds
            .into_iter()
            .map(|fd| crate::listen::adopt(fd, name))
            .collect(),
        None => crate::listen::bind(addr, false, "--admin"),
    }
}
