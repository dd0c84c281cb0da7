//! The text commands of a job server's port: what monitoring of Gearman asks.

use super::Front;
use ibex_gearman_proto::AdminCommand;
use ibex_gearman_proto::text::{admin_text, printable};
use std::fmt::Write;

/// The answer to one line.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else a job server can do by text is done over HTTP here"
)]
pub(super) async fn answer(front: &Front, command: AdminCommand<'_>) -> Vec<u8> {
    match command {
        AdminCommand::Version => {
            format!("OK ibex-schwartzd {}\r\n", env!("CARGO_PKG_VERSION")).into_bytes()
        }
        AdminCommand::GetPid => format!("OK {}\r\n", std::process::id()).into_bytes(),
        AdminCommand::Status => status(front).await,
        AdminCommand::Workers => workers(front),
        AdminCommand::Incomplete(word) => admin_text::incomplete(word).into_bytes(),
        AdminCommand::Unknown(word) => admin_text::unknown_command(word),
        _ => b"ERR UNSUPPORTED This+server+is+operated+over+HTTP\r\n".to_vec(),
    }
}

/// `function TAB in queue TAB running TAB workers` per function; jobs whose time has not come are not in the queue.
async fn status(front: &Front) -> Vec<u8> {
    let counts = match front.app.client.counts().await {
        Ok(counts) => counts,
        Err(error) => {
            tracing::debug!(error = %error, "depths cannot be counted now");
            return b"ERR NO_DATABASE No+database+answers\r\n".to_vec();
        }
    };
    let mut workers = std::collections::BTreeMap::<String, usize>::new();
    for seen in front.seen().values() {
        for func in &seen.funcs {
            *workers.entry(func.clone()).or_default() += 1;
        }
    }
    let mut out = Vec::new();
    for count in &counts {
        out.extend(count.funcname.bytes().map(printable));
        let line = format!(
            "\t{}\t{}\t{}\n",
            count.ready + count.grabbed,
            count.grabbed,
            workers.get(&count.funcname).copied().unwrap_or(0)
        );
        out.extend_from_slice(line.as_bytes());
    }
    out.extend_from_slice(admin_text::END.as_bytes());
    out
}

/// `fd address client-id : function …`, one line per connection.
fn workers(front: &Front) -> Vec<u8> {
    let mut text = String::new();
    for (id, seen) in front.seen().iter() {
        let name = if seen.name.is_empty() {
            "-"
        } else {
            &seen.name
        };
        let written = write!(text, "{id} {} {name} :", seen.peer);
        debug_assert!(written.is_ok(), "a String takes everything");
        for func in &seen.funcs {
            text.push(' ');
            text.push_str(func);
        }
        text.push('\n');
    }
    let mut out: Vec<u8> = text
        .bytes()
        .map(|byte| if byte == b'\n' { byte } else { printable(byte) })
        .collect();
    out.extend_from_slice(admin_text::END.as_bytes());
    out
}
