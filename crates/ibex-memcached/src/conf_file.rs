//! `--config FILE` with a file in the form of Debian's /etc/memcached.conf: a flag a line, in place of the family's TOML.
//!
//! The flags of the file take the place of `--config FILE` on the command line, so a flag behind it wins over the file. The file is read at the start only.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Puts the flags of such a file where its name stands; other files are left to the loader.
///
/// # Errors
/// A line that is no flag.
pub(crate) fn expand(given: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let mut all = Vec::with_capacity(given.len());
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        let joined = argument
            .to_str()
            .and_then(|text| text.strip_prefix("--config="));
        let named = match joined {
            Some(name) => Some(OsString::from(name)),
            None if argument == OsStr::new("--config") => given.next(),
            None => None,
        };
        let Some(name) = named else {
            all.push(argument);
            continue;
        };
        match flags_of(Path::new(&name))? {
            Some(flags) => all.extend(flags.into_iter().map(OsString::from)),
            None => all.extend([OsString::from("--config"), name]),
        }
    }
    Ok(all)
}

/// The flags of the file at `path`; `None` if it is none of this form. One that cannot be read is the loader's to refuse.
fn flags_of(path: &Path) -> Result<Option<Vec<String>>, String> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(None);
    };
    parse(&text).map_err(|reason| format!("--config {}: {reason}", path.display()))
}

/// Lines of flags, each with a value behind a blank if it has one; `#` begins a comment line. `None` if the first line is no flag.
fn parse(text: &str) -> Result<Option<Vec<String>>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let mut flags = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if !line.starts_with('-') {
            let is_first = flags.is_empty();
            return if is_first {
                Ok(None)
            } else {
                Err(format!("line {} is no flag", number + 1))
            };
        }
        let (flag, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        flags.push(flag.to_owned());
        let value = value.trim();
        if !value.is_empty() {
            flags.push(value.to_owned());
        }
    }
    Ok(if flags.is_empty() { None } else { Some(flags) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_file_of_flags_takes_the_place_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memcached.conf");
        std::fs::write(
            &path,
            "# memory\n-m 64\n\n-p   11211\n  # -v\n-l 127.0.0.1\n-P /run/x y.pid\n-A\n",
        )
        .unwrap();
        let name = path.to_str().unwrap();
        let expected = strings(&[
            "d",
            "-m",
            "64",
            "-p",
            "11211",
            "-l",
            "127.0.0.1",
            "-P",
            "/run/x y.pid",
            "-A",
            "-m",
            "9",
        ]);
        assert_eq!(
            expand(strings(&["d", "--config", name, "-m", "9"])),
            Ok(expected.clone())
        );
        let joined = format!("--config={name}");
        assert_eq!(expand(strings(&["d", &joined, "-m", "9"])), Ok(expected));
    }

    #[test]
    fn other_files_are_left_to_the_loader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memcached.toml");
        std::fs::write(&path, "# family\nmemory = \"64M\"\n").unwrap();
        let given = strings(&["d", "--config", path.to_str().unwrap(), "-A"]);
        assert_eq!(expand(given.clone()), Ok(given));
        let given = strings(&["d", "--config", "/does/not/exist"]);
        assert_eq!(expand(given.clone()), Ok(given));
        std::fs::write(&path, "-m 64\nmemory = 1\n").unwrap();
        let error = expand(strings(&["--config", path.to_str().unwrap()])).unwrap_err();
        assert!(error.ends_with("line 2 is no flag"), "{error}");
    }
}
