//! Secrets that live in files: `x_file` beside `x`.
//!
//! Owns where a secret file is looked for and how it is read (spec/ops.md 2.3), and the masking of passwords inside URLs.
//! It never puts a secret's text into a message.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The longest secret file read, in bytes: a key or token is far smaller; more is a wrong path. Policy: refuse.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What a secret file held, and what to warn about.
#[derive(Debug)]
pub(crate) struct SecretFile {
    pub(crate) text: String,
    pub(crate) warning: Option<String>,
}

/// Reads the secret named by `name`: an absolute path, or a bare name in `$CREDENTIALS_DIRECTORY`, then in `/run/secrets`.
pub(crate) fn read(name: &str, credentials: Option<&Path>) -> Result<SecretFile, String> {
    let path = find(name, credentials)?;
    let metadata = std::fs::metadata(&path)
        .map_err(|error| format!("secret file {}: {error}", path.display()))?;
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(format!(
            "secret file {} is larger than {SECRET_BYTES_MAX} bytes",
            path.display()
        ));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("secret file {}: {error}", path.display()))?;
    let cut = text.strip_suffix('\n').map_or(text.as_str(), |line| {
        line.strip_suffix('\r').unwrap_or(line)
    });
    let warning = (metadata.is_file() && metadata.mode() & 0o004 != 0).then(|| {
        format!(
            "secret file {} is readable by everybody (chmod o-r)",
            path.display()
        )
    });
    Ok(SecretFile {
        text: cut.to_owned(),
        warning,
    })
}

fn find(name: &str, credentials: Option<&Path>) -> Result<PathBuf, String> {
    let path = Path::new(name);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    if path.components().count() != 1 {
        return Err(format!(
            "secret file {name:?}: write an absolute path or a bare name"
        ));
    }
    let places = credentials.into_iter().chain([Path::new("/run/secrets")]);
    let tried: Vec<PathBuf> = places.map(|place| place.join(name)).collect();
    tried
        .iter()
        .find(|path| path.exists())
        .cloned()
        .ok_or_else(|| {
            let list: Vec<String> = tried
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            format!("secret file {name:?} found in none of: {}", list.join(", "))
        })
}

/// The text with the password of a URL inside it replaced by `***`; other texts unchanged.
pub(crate) fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // A password may itself hold '/' or '?': then the '@' comes after the first of them.
    let at = rest
        .get(..end)
        .and_then(|authority| authority.rfind('@'))
        .or_else(|| rest.rfind('@'));
    let Some(at) = at else { return text.to_owned() };
    let (login, host) = rest.split_at(at);
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn urls_lose_their_password_only() {
        for (text, shown) in [
            ("mysql://u:pw@h:3306/db", "mysql://u:***@h:3306/db"),
            ("mysql://u@h/db", "mysql://u@h/db"),
            ("mysql://u:p@ss@h/db", "mysql://u:***@h/db"),
            ("mysql://u:p/w@h/db", "mysql://u:***@h/db"),
            ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(mask_url(text), shown);
        }
    }

    #[test]
    fn reads_by_path_and_by_name_and_cuts_one_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        std::fs::write(&path, "s3cret\n\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = read(path.to_str().unwrap(), None).unwrap();
        assert_eq!((file.text.as_str(), file.warning), ("s3cret\n", None));
        assert_eq!(read("pw", Some(dir.path())).unwrap().text, "s3cret\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            read("pw", Some(dir.path()))
                .unwrap()
                .warning
                .unwrap()
                .contains("readable by everybody")
        );
    }

    #[test]
    fn a_missing_secret_names_the_places() {
        let error = read("no-such-secret", Some(Path::new("/nonexistent"))).unwrap_err();
        assert!(
            error.contains("/nonexistent/no-such-secret")
                && error.contains("/run/secrets/no-such-secret"),
            "{error}"
        );
        assert!(read("a/b", None).unwrap_err().contains("absolute"));
    }
}
