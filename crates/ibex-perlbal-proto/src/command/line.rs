//! From a raw line to the text of a command: comments, blanks, variables.
//!
//! Owns steps 1 to 4 of spec part A2. Apart from the grammar because they apply to every line alike.
//! It reads no environment itself: the caller passes one.

use super::Error;

/// Where variables come from.
pub trait Environment {
    /// Value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// IPv4 address of a network interface.
    fn interface(&self, name: &str) -> Option<String>;
}

/// An environment without anything in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEnvironment;

impl Environment for NoEnvironment {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn interface(&self, _: &str) -> Option<String> {
        None
    }
}

/// The command in a line, or `None` if it is empty.
///
/// # Errors
/// When a `${…}` variable cannot be expanded.
pub fn prepare(line: &str, environment: &dyn Environment) -> Result<Option<String>, Error> {
    let collapsed = without_comment(line)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('\u{0}', "#");
    if collapsed.is_empty() {
        return Ok(None);
    }
    expand(&collapsed, environment).map(Some)
}

/// Cuts from the first `#` not written `\#`; escaped ones become NUL until blanks are collapsed.
fn without_comment(line: &str) -> String {
    let line = line.replace('\u{0}', " ").replace("\\#", "\u{0}");
    line.split('#').next().unwrap_or_default().to_owned()
}

fn expand(text: &str, environment: &dyn Environment) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some((inside, behind)) = rest
            .strip_prefix('{')
            .and_then(|r| r.split_once('}'))
            .filter(|(inside, _)| !inside.is_empty())
        {
            out.push_str(&config_variable(inside, environment)?);
            rest = behind;
            continue;
        }
        let name_len = rest
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
            .count();
        if name_len == 0 {
            out.push('$');
        } else {
            out.push_str(&environment.variable(&rest[..name_len]).unwrap_or_default());
            rest = &rest[name_len..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn config_variable(text: &str, environment: &dyn Environment) -> Result<String, Error> {
    match text.split_once(':') {
        Some(("ip", name)) => environment
            .interface(name)
            .ok_or_else(|| Error::new(format!("Can't find IP of interface '{name}'"))),
        Some((kind, _)) => Err(Error::new(format!("Unknown config variable type: {kind}"))),
        None => Err(Error::new(format!("Unknown config variable type: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "HOME").then(|| "/root".to_owned())
        }

        fn interface(&self, name: &str) -> Option<String> {
            (name == "eth0").then(|| "10.0.0.5".to_owned())
        }
    }

    #[test]
    fn lines() {
        let prepared = |line: &str| prepare(line, &Fixed).unwrap();
        assert_eq!(
            prepared("  SET  a =  b\tc \r\n"),
            Some("SET a = b c".into())
        );
        assert_eq!(prepared("# only a comment"), None);
        assert_eq!(prepared("SET a = b # c # d"), Some("SET a = b".into()));
        assert_eq!(prepared("SET a = b\\#c # d"), Some("SET a = b#c".into()));
        assert_eq!(
            prepared("SET a = $HOME/x$NONE$ ${ip:eth0}:80"),
            Some("SET a = /root/x$ 10.0.0.5:80".into())
        );
        assert_eq!(prepared("a ${ b"), Some("a ${ b".into()));
        assert_eq!(
            prepare("${ip:eth9}", &Fixed),
            Err(Error::new("Can't find IP of interface 'eth9'"))
        );
        assert_eq!(
            prepare("${foo:eth9}", &Fixed),
            Err(Error::new("Unknown config variable type: foo"))
        );
    }
}
