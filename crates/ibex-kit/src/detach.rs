//! The originals' `-d`, `-P` and `-u`: into the background, with a pid file, as another user.
//!
//! Owns the drop-in behaviour of spec/ops.md 1.3. Recommended is none of it: a supervisor does all three better.
//! Going into the background is a second start of the same program with its own session, because forking a running
//! process safely is not possible from Rust; the parent waits for nothing and ends.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::args::Detach;
use crate::failure::Failure;

/// Set for the second start.
const MARK: &str = "IBEX_DETACHED";

/// Starts the background process if asked to; true in the parent, which shall end.
pub(crate) fn leave_terminal(detach: &Detach) -> Result<bool, Failure> {
    let detached = std::env::var_os(MARK).is_some();
    if detach.background && !detached {
        let program = std::env::current_exe()
            .map_err(|error| Failure::io(format!("own program: {error}")))?;
        let mut command = Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .env(MARK, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .spawn()
            .map_err(|error| Failure::io(format!("start in the background: {error}")))?;
        return Ok(true);
    }
    if detached {
        rustix::process::setsid().map_err(|error| Failure::io(format!("new session: {error}")))?;
    }
    if let Some(path) = &detach.pid_file {
        write_pid_file(path)?;
    }
    Ok(false)
}

fn write_pid_file(path: &Path) -> Result<(), Failure> {
    let failure =
        |error: &std::io::Error| Failure::io(format!("pid file {}: {error}", path.display()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(|error| failure(&error))?;
    writeln!(file, "{}", std::process::id()).map_err(|error| failure(&error))
}

/// Removes the pid file if it is still ours.
pub(crate) fn remove_pid_file(detach: &Detach) {
    if let Some(path) = &detach.pid_file
        && std::fs::read_to_string(path)
            .is_ok_and(|text| text.trim() == std::process::id().to_string())
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(error = %error, path = %path.display(), "pid file stays");
    }
}

/// Becomes `-u USER` if started as root. Called while the process has one thread, so all later threads inherit it.
///
/// DIFFERS(memcached): privileges are dropped before the data ports are bound; a port below 1024 needs socket activation.
pub(crate) fn become_user(detach: &Detach) -> Result<(), Failure> {
    let Some(user) = &detach.user else {
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let passwd = std::fs::read_to_string("/etc/passwd")
        .map_err(|error| Failure::io(format!("/etc/passwd: {error}")))?;
    let (uid, gid) = find_user(&passwd, user)
        .ok_or_else(|| Failure::usage(format!("-u {user}: no such user")))?;
    let failure = |error: rustix::io::Errno| Failure::io(format!("become user {user}: {error}"));
    let (uid, gid) = (
        rustix::process::Uid::from_raw(uid),
        rustix::process::Gid::from_raw(gid),
    );
    rustix::thread::set_thread_groups(&[gid]).map_err(failure)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failure)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failure)
}

/// User and group id of a name (or a number) in the text of `/etc/passwd`.
fn find_user(passwd: &str, user: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
        (*name == user || *uid == user).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/x\nbroken\n";
        assert_eq!(find_user(passwd, "nobody"), Some((65534, 65533)));
        assert_eq!(find_user(passwd, "65534"), Some((65534, 65533)));
        assert_eq!(find_user(passwd, "nobod"), None);
    }

    #[test]
    fn the_pid_file_is_ours_to_remove_only_while_it_names_us() {
        let dir = tempfile::tempdir().unwrap();
        let detach = Detach {
            pid_file: Some(dir.path().join("pid")),
            ..Detach::default()
        };
        let path = detach.pid_file.clone().unwrap();
        write_pid_file(&path).unwrap();
        remove_pid_file(&detach);
        assert!(!path.exists());
        std::fs::write(&path, "1\n").unwrap();
        remove_pid_file(&detach);
        assert!(path.exists());
    }
}
