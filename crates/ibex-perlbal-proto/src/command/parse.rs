//! The grammar: from the text of a command to a [`Command`].
//!
//! Owns verbs, argument forms, usage texts and error texts (spec part A3). Apart from `line`, which prepares the text.
//! It checks forms only; whether a service exists is for the daemon to say.

use super::{Access, AccessVerb, Command, Error, Listing, Thing};
use crate::forward::HeaderChange;
use crate::netmask::Netmask;
use crate::vhost;

/// Commands for `HELP`, sorted.
const VERBS: &[&str] = &[
    "access",
    "aio",
    "backends",
    "create",
    "default",
    "disable",
    "drain",
    "dumpconfig",
    "enable",
    "exit",
    "explain",
    "fd",
    "gladiator",
    "header",
    "help",
    "include",
    "leaks",
    "load",
    "mime",
    "node",
    "nodes",
    "noverify",
    "obj",
    "patterns",
    "pending",
    "plugins",
    "pool",
    "proc",
    "prof",
    "queues",
    "quit",
    "recent",
    "redirect",
    "reload",
    "reproxy_state",
    "server",
    "set",
    "show",
    "shutdown",
    "socks",
    "state",
    "states",
    "stats",
    "track",
    "undrain",
    "unload",
    "uptime",
    "use",
    "varsize",
    "verbose",
    "version",
    "vhost",
    "vpath",
    "xs",
];

/// The words of `HELP`.
#[must_use]
pub fn verbs() -> &'static [&'static str] {
    VERBS
}

/// Parses a prepared line.
///
/// # Errors
/// The text behind `ERROR: `.
pub fn parse(text: &str) -> Result<Command, Error> {
    let word_len = text.bytes().take_while(|b| is_word_byte(*b)).count();
    if word_len == 0 {
        return Err(Error::new("invalid command"));
    }
    let verb = text[..word_len].to_ascii_lowercase();
    let args = Args {
        verb: &verb,
        text: text[word_len..].trim(),
    };
    match verb.as_str() {
        "create" => create(&args),
        "use" => args
            .word("usage: USE <service_or_pool_name>")
            .map(Command::Use),
        "set" => set(&args),
        "default" => default(&args),
        "header" => header(&args),
        "enable" => args
            .word("Usage: {ENABLE|DISABLE} <service>")
            .map(Command::Enable),
        "disable" => args
            .word("Usage: {ENABLE|DISABLE} <service>")
            .map(Command::Disable),
        "pool" => pool(&args),
        "drain" | "undrain" => drain(&args, verb == "drain"),
        "load" => args.plain_word().map(Command::Load),
        "unload" => args.plain_word().map(Command::Unload),
        "reload" => args.plain_word().map(|w| {
            if w == "config" {
                Command::ReloadConfig
            } else {
                Command::Reload(w)
            }
        }),
        "server" => server(&args),
        "shutdown" => shutdown(&args),
        "mime" => mime(&args),
        "verbose" => verbose(&args),
        "quit" | "exit" => args.none().map(|()| Command::Quit),
        "show" => show(&args),
        "vhost" => vhost_command(&args),
        "vpath" => vpath(&args),
        "access" => access(&args),
        "redirect" => redirect(&args),
        "include" => include(&args),
        "explain" => explain(&args),
        _ => listing(&args).map(Command::List),
    }
}

struct Args<'a> {
    verb: &'a str,
    text: &'a str,
}

impl Args<'_> {
    fn syntax(&self) -> Error {
        Error::new(format!("Invalid syntax to '{}' command", self.verb))
    }

    fn none(&self) -> Result<(), Error> {
        if self.text.is_empty() {
            Ok(())
        } else {
            Err(Error::new(format!(
                "The '{}' command takes no arguments",
                self.verb
            )))
        }
    }

    fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().collect()
    }

    /// Exactly one name, or the usage text.
    fn word(&self, usage: &str) -> Result<String, Error> {
        name(self.text).ok_or_else(|| Error::new(usage))
    }

    fn plain_word(&self) -> Result<String, Error> {
        name(self.text).ok_or_else(|| self.syntax())
    }

    /// `left = value`; blanks around `=` are optional and the value may not be empty.
    fn assignment(&self) -> Option<(&str, &str)> {
        let (left, value) = self.text.split_once('=')?;
        let (left, value) = (left.trim(), value.trim());
        (!left.is_empty() && !value.is_empty()).then_some((left, value))
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A name `\w+`, lower case.
fn name(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(is_word_byte)).then(|| text.to_ascii_lowercase())
}

fn create(args: &Args<'_>) -> Result<Command, Error> {
    let usage = || Error::new("usage: CREATE {service|pool} <name>");
    let [kind, called] = args.words()[..] else {
        return Err(usage());
    };
    let called = name(called).ok_or_else(usage)?;
    match kind.to_ascii_lowercase().as_str() {
        "service" => Ok(Command::Create(Thing::Service, called)),
        "pool" => Ok(Command::Create(Thing::Pool, called)),
        _ => Err(usage()),
    }
}

fn set(args: &Args<'_>) -> Result<Command, Error> {
    let usage = || Error::new("usage: SET [<service>] <param> = <value>");
    let (left, value) = args.assignment().ok_or_else(usage)?;
    let left = left.to_ascii_lowercase();
    let split = left.split_once(' ').or_else(|| left.split_once('.'));
    let (target, key) = match split {
        Some((target, key)) => (Some(name(target.trim()).ok_or_else(usage)?), key.trim()),
        None => (None, left.as_str()),
    };
    if key.is_empty() || !key.bytes().all(|b| is_word_byte(b) || b == b'.') {
        return Err(usage());
    }
    Ok(Command::Set {
        target,
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

fn default(args: &Args<'_>) -> Result<Command, Error> {
    let usage = || Error::new("usage: DEFAULT <param> = <value>");
    let (key, value) = args.assignment().ok_or_else(usage)?;
    Ok(Command::Default {
        key: name(key).ok_or_else(usage)?,
        value: value.to_owned(),
    })
}

fn header(args: &Args<'_>) -> Result<Command, Error> {
    let usage = || Error::new("Usage: HEADER <service> {INSERT|REMOVE} <header>[: <value>]");
    let mut parts = args.text.splitn(3, ' ');
    let (service, action, rest) = (
        parts.next().and_then(name),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let service = service.ok_or_else(usage)?;
    let (header, value) = match rest.split_once(':') {
        Some((header, value)) => (header.trim(), Some(value.trim())),
        None => (rest.trim(), None),
    };
    if !action.eq_ignore_ascii_case("insert") && !action.eq_ignore_ascii_case("remove") {
        return Err(usage());
    }
    if header.is_empty() {
        return Err(usage());
    }
    if !crate::head::is_token(header.as_bytes()) {
        return Err(Error::new("invalid header name"));
    }
    if action.eq_ignore_ascii_case("remove") {
        return Ok(Command::Header(
            service,
            HeaderChange::Remove(header.to_owned()),
        ));
    }
    let value = value
        .filter(|v| !v.is_empty())
        .ok_or_else(|| Error::new("no value provided"))?;
    if value.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err(Error::new("invalid header value"));
    }
    Ok(Command::Header(
        service,
        HeaderChange::Insert(header.to_owned(), value.to_owned()),
    ))
}

fn pool(args: &Args<'_>) -> Result<Command, Error> {
    let words = args.words();
    let is_action = |w: &str| w.eq_ignore_ascii_case("add") || w.eq_ignore_ascii_case("remove");
    let (pool, action, rest) = match words[..] {
        // `POOL ADD x` means the current pool; a pool may be called `add` when a further action follows.
        [action, ..] if is_action(action) && !words.get(1).is_some_and(|w| is_action(w)) => {
            (None, action, &words[1..])
        }
        [pool, action, ..] => (
            Some(name(pool).ok_or_else(|| args.syntax())?),
            action,
            &words[2..],
        ),
        _ => return Err(args.syntax()),
    };
    if rest.is_empty() {
        return Err(args.syntax());
    }
    let node = rest.join(" ");
    match action.to_ascii_lowercase().as_str() {
        "add" => Ok(Command::PoolAdd { pool, node }),
        "remove" => Ok(Command::PoolRemove { pool, node }),
        _ => Err(Error::new("Invalid command:  must be 'add' or 'remove'")),
    }
}

fn drain(args: &Args<'_>, on: bool) -> Result<Command, Error> {
    let [pool, node] = args.words()[..] else {
        return Err(args.syntax());
    };
    Ok(Command::Drain {
        pool: name(pool).ok_or_else(|| args.syntax())?,
        node: node.to_owned(),
        on,
    })
}

fn server(args: &Args<'_>) -> Result<Command, Error> {
    let (key, value) = args.assignment().ok_or_else(|| args.syntax())?;
    if key.contains(' ') {
        return Err(args.syntax());
    }
    Ok(Command::Server {
        key: key.to_ascii_lowercase(),
        value: value.to_owned(),
    })
}

fn shutdown(args: &Args<'_>) -> Result<Command, Error> {
    match args.words()[..] {
        [] => Ok(Command::Shutdown),
        [word] if word.eq_ignore_ascii_case("graceful") => Ok(Command::ShutdownGraceful(None)),
        [word, secs] if word.eq_ignore_ascii_case("graceful") => {
            let secs = ibex_base::ascii::parse_u64(secs.as_bytes()).ok_or_else(|| args.syntax())?;
            Ok(Command::ShutdownGraceful(Some(secs)))
        }
        _ => Err(args.syntax()),
    }
}

fn mime(args: &Args<'_>) -> Result<Command, Error> {
    let words = args.words();
    let verb = words.first().map(|w| w.to_ascii_lowercase());
    match (verb.as_deref(), &words[..]) {
        (None, _) | (Some("list"), [_]) => Ok(Command::List(Listing::Mime)),
        (Some("set"), [_, extension, mime]) => Ok(Command::MimeSet(
            (*extension).to_owned(),
            (*mime).to_owned(),
        )),
        (Some("remove"), [_, extension]) => Ok(Command::MimeRemove((*extension).to_owned())),
        _ => Err(args.syntax()),
    }
}

fn verbose(args: &Args<'_>) -> Result<Command, Error> {
    match args.text.to_ascii_lowercase().as_str() {
        "on" => Ok(Command::Verbose(true)),
        "off" => Ok(Command::Verbose(false)),
        _ => Err(Error::new("usage: VERBOSE {on|off}")),
    }
}

fn show(args: &Args<'_>) -> Result<Command, Error> {
    let words: Vec<String> = args
        .words()
        .iter()
        .map(|w| w.to_ascii_lowercase())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(Command::List(match words[..] {
        ["service"] => Listing::Services,
        ["service", called] => Listing::Service(called.to_owned()),
        ["pool"] => Listing::Pools,
        ["pool", called] => Listing::Pool(called.to_owned()),
        ["node", called] => Listing::Nodes(Some(called.to_owned())),
        ["metrics"] => Listing::Metrics,
        _ => return Err(args.syntax()),
    }))
}

/// `[selector] key = value`, the shape of VHOST and VPATH.
fn mapping<'a>(args: &'a Args<'_>) -> Option<(Option<String>, &'a str, String)> {
    let (left, service) = args.text.rsplit_once('=')?;
    let (left, service) = (left.trim(), name(service.trim())?);
    match left.split_once(' ') {
        Some((selector, key)) if !key.trim().is_empty() => {
            Some((Some(name(selector)?), key.trim(), service))
        }
        _ if left.is_empty() => None,
        _ => Some((None, left, service)),
    }
}

fn vhost_command(args: &Args<'_>) -> Result<Command, Error> {
    let usage = || Error::new("usage: VHOST [<service>] <host_or_pattern> = <dest_service>");
    let words = args.words();
    if let [remove, rest @ ..] = &words[..]
        && remove.eq_ignore_ascii_case("remove")
    {
        let (selector, host) = match rest {
            [host] => (None, *host),
            [selector, host] => (Some(name(selector).ok_or_else(usage)?), *host),
            _ => return Err(usage()),
        };
        return Ok(Command::Vhost {
            selector,
            host: host.to_ascii_lowercase(),
            service: None,
        });
    }
    let (selector, host, service) = mapping(args).ok_or_else(usage)?;
    if !vhost::is_pattern(host) {
        return Err(Error::new(format!("invalid host pattern: '{host}'")));
    }
    Ok(Command::Vhost {
        selector,
        host: host.to_ascii_lowercase(),
        service: Some(service),
    })
}

fn vpath(args: &Args<'_>) -> Result<Command, Error> {
    let (selector, pattern, service) = mapping(args)
        .ok_or_else(|| Error::new("usage: VPATH [<service>] <path regex> = <dest_service>"))?;
    Ok(Command::Vpath {
        selector,
        pattern: pattern.to_owned(),
        service,
    })
}

fn access(args: &Args<'_>) -> Result<Command, Error> {
    let words = args.words();
    let lower: Vec<String> = words.iter().map(|w| w.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let verb = match lower[..] {
        ["policy", "allow"] => return Ok(Command::Access(Access::Policy { allow: true })),
        ["policy", "deny"] => return Ok(Command::Access(Access::Policy { allow: false })),
        ["policy", ..] => return Err(Error::new("policy must be 'allow' or 'deny'")),
        ["reset"] => return Ok(Command::Access(Access::Reset)),
        ["allow", _, _] => AccessVerb::Allow,
        ["deny", _, _] => AccessVerb::Deny,
        ["queue_low", _, _] => AccessVerb::QueueLow,
        _ => {
            return Err(Error::new("usage: ACCESS <cmd> <arg1> [<arg2>]"));
        }
    };
    if lower[1] != "ip" && lower[1] != "netmask" {
        return Err(Error::new(format!(
            "Unknown item to {}: '{}'",
            lower[0], lower[1]
        )));
    }
    let network = Netmask::parse(words[2]).ok_or_else(|| Error::new("Error parsing netmask"))?;
    Ok(Command::Access(Access::Rule { verb, network }))
}

fn redirect(args: &Args<'_>) -> Result<Command, Error> {
    match args.words()[..] {
        [kind, host, target]
            if kind.eq_ignore_ascii_case("host")
                && vhost::is_pattern(host)
                && crate::head::is_host(target.as_bytes()) =>
        {
            Ok(Command::Redirect {
                host: host.to_ascii_lowercase(),
                target: target.to_owned(),
            })
        }
        _ => Err(Error::new(
            "usage: REDIRECT HOST <match_host> <target_host>",
        )),
    }
}

fn include(args: &Args<'_>) -> Result<Command, Error> {
    let globs = args
        .text
        .strip_prefix('=')
        .map(str::trim)
        .filter(|t| !t.is_empty());
    globs
        .map(|t| Command::Include(t.split_whitespace().map(str::to_owned).collect()))
        .ok_or_else(|| Error::new("usage: INCLUDE = <config files>"))
}

fn explain(args: &Args<'_>) -> Result<Command, Error> {
    match args.words()[..] {
        [host, method, target] => Ok(Command::Explain {
            host: host.to_owned(),
            method: method.to_owned(),
            target: target.to_owned(),
        }),
        _ => Err(Error::new("usage: EXPLAIN <host> <method> <uri>")),
    }
}

fn listing(args: &Args<'_>) -> Result<Listing, Error> {
    let words = args.words();
    let plain = |listing| args.none().map(|()| listing);
    match args.verb {
        "nodes" | "node" => match words[..] {
            [] => Ok(Listing::Nodes(None)),
            [node] => Ok(Listing::Nodes(Some(node.to_owned()))),
            _ => Err(args.syntax()),
        },
        "states" => match words[..] {
            [] => Ok(Listing::States(None)),
            [service] => Ok(Listing::States(Some(service.to_ascii_lowercase()))),
            _ => Err(args.syntax()),
        },
        "socks" => match words[..] {
            [] => Ok(Listing::Socks { summary: false }),
            [word] if word.eq_ignore_ascii_case("summary") => Ok(Listing::Socks { summary: true }),
            _ => Err(args.syntax()),
        },
        "queues" => plain(Listing::Queues),
        "backends" => plain(Listing::Backends),
        "pending" => plain(Listing::Pending),
        "noverify" => plain(Listing::NoVerify),
        "reproxy_state" => plain(Listing::ReproxyState),
        "proc" => plain(Listing::Proc),
        "uptime" | "version" => plain(Listing::Uptime),
        "fd" => plain(Listing::Fd),
        "plugins" => plain(Listing::Plugins),
        "patterns" => plain(Listing::Patterns),
        "stats" => plain(Listing::Stats),
        "recent" => plain(Listing::Recent),
        "dumpconfig" => plain(Listing::DumpConfig),
        "help" => plain(Listing::Help),
        // COMPAT(perlbal): debugging aids of the Perl process answer properly and show nothing.
        "aio" | "leaks" | "obj" | "prof" | "state" | "track" | "varsize" | "gladiator" | "xs" => {
            Ok(Listing::Nothing)
        }
        other => Err(Error::new(format!("unknown command: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{NoEnvironment, prepare};
    use proptest::prelude::*;

    fn shown(line: &str) -> String {
        let text = prepare(line, &NoEnvironment).unwrap().unwrap();
        match parse(&text) {
            Ok(command) => format!("{command:?}"),
            Err(error) => format!("ERROR: {error}"),
        }
    }

    #[test]
    fn commands() {
        for (line, expected) in [
            ("create SERVICE Web", r#"Create(Service, "web")"#),
            ("CREATE POOL a", r#"Create(Pool, "a")"#),
            ("use Web", r#"Use("web")"#),
            (
                "SET role = reverse_proxy",
                r#"Set { target: None, key: "role", value: "reverse_proxy" }"#,
            ),
            (
                "SET Web.Listen=127.0.0.1:80",
                r#"Set { target: Some("web"), key: "listen", value: "127.0.0.1:80" }"#,
            ),
            (
                "SET web listen = 80",
                r#"Set { target: Some("web"), key: "listen", value: "80" }"#,
            ),
            (
                "SET web.highpri.uri_pattern = ^/A=b",
                r#"Set { target: Some("web"), key: "highpri.uri_pattern", value: "^/A=b" }"#,
            ),
            (
                "DEFAULT persist_client = on",
                r#"Default { key: "persist_client", value: "on" }"#,
            ),
            (
                "HEADER web INSERT X-Name: Some: Value",
                r#"Header("web", Insert("X-Name", "Some: Value"))"#,
            ),
            (
                "header web remove Cookie",
                r#"Header("web", Remove("Cookie"))"#,
            ),
            (
                "POOL a ADD 10.0.0.1:80 weight=3",
                r#"PoolAdd { pool: Some("a"), node: "10.0.0.1:80 weight=3" }"#,
            ),
            (
                "POOL ADD 10.0.0.1",
                r#"PoolAdd { pool: None, node: "10.0.0.1" }"#,
            ),
            (
                "POOL a REMOVE 10.0.0.1",
                r#"PoolRemove { pool: Some("a"), node: "10.0.0.1" }"#,
            ),
            ("SHUTDOWN", "Shutdown"),
            ("shutdown graceful 5", "ShutdownGraceful(Some(5))"),
            ("mime set foo a/B", r#"MimeSet("foo", "a/B")"#),
            (
                "VHOST sel *.Example.com = web",
                r#"Vhost { selector: Some("sel"), host: "*.example.com", service: Some("web") }"#,
            ),
            (
                "VHOST x = web",
                r#"Vhost { selector: None, host: "x", service: Some("web") }"#,
            ),
            (
                "VHOST REMOVE x",
                r#"Vhost { selector: None, host: "x", service: None }"#,
            ),
            (
                "VPATH ^/A=.* = web",
                r#"Vpath { selector: None, pattern: "^/A=.*", service: "web" }"#,
            ),
            ("show service web", r#"List(Service("web"))"#),
            ("nodes", "List(Nodes(None))"),
            ("leaks", "List(Nothing)"),
            ("reload config", "ReloadConfig"),
            ("INCLUDE = /a/*.conf b", r#"Include(["/a/*.conf", "b"])"#),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn error_texts() {
        for (line, expected) in [
            ("=", "invalid command"),
            ("frobnicate now", "unknown command: frobnicate"),
            ("create thing x", "usage: CREATE {service|pool} <name>"),
            ("queues now", "The 'queues' command takes no arguments"),
            ("show nothing", "Invalid syntax to 'show' command"),
            ("verbose maybe", "usage: VERBOSE {on|off}"),
            ("default x", "usage: DEFAULT <param> = <value>"),
            (
                "header web insert",
                "Usage: HEADER <service> {INSERT|REMOVE} <header>[: <value>]",
            ),
            ("header web insert X-A", "no value provided"),
            (
                "pool a frob 1.2.3.4",
                "Invalid command:  must be 'add' or 'remove'",
            ),
            ("vhost a/b = c", "invalid host pattern: 'a/b'"),
            (
                "vhost a",
                "usage: VHOST [<service>] <host_or_pattern> = <dest_service>",
            ),
            ("access policy maybe", "policy must be 'allow' or 'deny'"),
            ("access allow host x", "Unknown item to allow: 'host'"),
            ("access allow ip x", "Error parsing netmask"),
        ] {
            assert_eq!(shown(line), format!("ERROR: {expected}"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_command_or_one_line_of_error(line in ".{0,60}") {
            if let Ok(Some(text)) = prepare(&line, &NoEnvironment) && let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
