//! Starting each daemon with the least it needs, so that the common tests can treat all alike.

use std::path::Path;

use anyhow::{Context, Result};
use ibex_testkit::family::{self, Member};
use ibex_testkit::{Builder, Daemon};

/// The member of the family whose short name is `short`.
///
/// # Errors
/// When there is none.
pub fn member(short: &str) -> Result<&'static Member> {
    family::member(short).with_context(|| format!("no daemon {short}"))
}

/// A builder with what this daemon cannot do without.
///
/// # Errors
/// When a file it needs cannot be written.
pub fn builder(member: &Member, scratch: &Path) -> Result<Builder> {
    let mut builder = Daemon::builder(member.binary);
    for arg in member.args {
        builder = builder.arg(*arg);
    }
    Ok(match member.short {
        "mogstored" => {
            let docroot = scratch.join("docroot");
            std::fs::create_dir_all(docroot.join("dev1")).context("make the device's folder")?;
            builder.set("docroot", &docroot.to_string_lossy())
        }
        "perlbal" => {
            let conf = scratch.join("perlbal.conf");
            std::fs::write(&conf, perlbal_conf(scratch))
                .context("write the balancer's configuration")?;
            builder
                .without_env("IBEX_LISTEN")
                .set("perlbal_conf", &conf.to_string_lossy())
        }
        "journal" => journal(builder, scratch),
        _ => builder,
    })
}

/// A web server over an empty folder: the least a balancer can be told to do.
fn perlbal_conf(scratch: &Path) -> String {
    format!(
        "CREATE SERVICE http\n  SET role = web_server\n  SET listen = 127.0.0.1:0\n  SET docroot = {}\n  SET persist_client = on\nENABLE http\n",
        scratch.display()
    )
}

/// A site of one cluster in two files, with no daemon beside it.
fn journal(builder: Builder, scratch: &Path) -> Builder {
    let database = |name: &str| format!("sqlite:{}", scratch.join(name).display());
    builder
        .set("db.global.master", &database("global.db"))
        .set(
            "cluster",
            &format!(
                "[{{ id = 1, a = \"{}\", weight = 100 }}]",
                database("cluster1.db")
            ),
        )
        .set("files.dir", &scratch.join("files").to_string_lossy())
}
