//! Cache keys: what each holds, how long it lives, and which write must invalidate it.
//!
//! Apart, in one module, because a key that one file writes and another forgets to delete is how stale privacy happens. Each
//! function names its writers. All keys of a user are on one server, chosen by his number; values begin with a version byte.

use ibex_cluster::UserId;
use std::time::Duration;

/// A key, and the user's number that chooses its server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// Chooses the server.
    pub by: u32,
    /// The key itself.
    pub text: String,
}

/// What a class of keys is called in metrics, and how long its values live.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Its name.
    pub name: &'static str,
    /// Life of its values.
    pub life: Duration,
}

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 3600;

const fn class(name: &'static str, seconds: u64) -> Class {
    Class {
        name,
        life: Duration::from_secs(seconds),
    }
}

/// `user::User`.
pub const USER: Class = class("user", 30 * MINUTE);
/// Number of a name.
pub const UID_OF: Class = class("uidof", 30 * MINUTE);
/// Settings of a user.
pub const PROPS: Class = class("uprop", 30 * MINUTE);
/// A session.
pub const SESSION: Class = class("sess", 10 * MINUTE);
/// Whom a user trusts and watches.
pub const EDGE_OUT: Class = class("edge_out", 15 * MINUTE);
/// Who trusts or watches a user, and what he administers: all that decides what he may see.
pub const EDGE_IN: Class = class("edge_in", 15 * MINUTE);
/// Row of an entry with its number of comments.
pub const LOG2: Class = class("log2", DAY);
/// Text and properties of an entry.
pub const LOGTEXT: Class = class("logtext", DAY);
/// The newest entries of a journal.
pub const LOG2LT: Class = class("log2lt", DAY);
/// All comments of an entry without their texts.
pub const TALK2: Class = class("talk2", DAY);
/// Text of a comment.
pub const TALKTEXT: Class = class("talktext", DAY);
/// Pictures of a user.
pub const PICS: Class = class("upicinf", DAY);
/// One uploaded photo.
pub const MEDIA: Class = class("media", DAY);
/// Where a file is stored.
pub const PATHS: Class = class("mogp", 10 * MINUTE);
/// Unread notices of a user.
pub const UNREAD: Class = class("inbox", 60 * MINUTE);
/// A finished feed for those who are not logged in.
pub const FEED: Class = class("feed", 5 * MINUTE);

fn key(by: UserId, text: String) -> Key {
    Key { by: by.0, text }
}

/// Invalidated by: change of the user row, default picture, move.
#[must_use]
pub fn user(id: UserId) -> Key {
    key(id, format!("userid:{id}"))
}
/// Names do not change; nothing invalidates it. Its server is chosen by the name's bytes, since the number is what is sought.
#[must_use]
pub fn uid_of(name: &str) -> Key {
    let by = name.bytes().fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    Key {
        by,
        text: format!("uidof:{name}"),
    }
}
/// Invalidated by: settings.
#[must_use]
pub fn props(id: UserId) -> Key {
    key(id, format!("uprop:{id}"))
}
/// Invalidated by: log-out, expiry.
#[must_use]
pub fn session(id: UserId, sessid: i64) -> Key {
    key(id, format!("sess:{id}:{sessid}"))
}
/// Invalidated by: every edge from this user.
#[must_use]
pub fn edge_out(id: UserId) -> Key {
    key(id, format!("edge_out:{id}"))
}
/// Invalidated by: every edge to this user, and becoming or ceasing to be an administrator.
#[must_use]
pub fn edge_in(id: UserId) -> Key {
    key(id, format!("edge_in:{id}"))
}
/// Invalidated by: edit, delete, and every comment on the entry.
#[must_use]
pub fn log2(id: UserId, jitemid: i64) -> Key {
    key(id, format!("log2:{id}:{jitemid}"))
}
/// Invalidated by: edit, delete.
#[must_use]
pub fn logtext(id: UserId, jitemid: i64) -> Key {
    key(id, format!("logtext:{id}:{jitemid}"))
}
/// Invalidated by: post, edit, delete.
#[must_use]
pub fn log2lt(id: UserId) -> Key {
    key(id, format!("log2lt:{id}"))
}
/// Invalidated by: every change of a comment on the entry, its deletion.
#[must_use]
pub fn talk2(id: UserId, jitemid: i64) -> Key {
    key(id, format!("talk2:{id}:L:{jitemid}"))
}
/// Invalidated by: edit or deletion of the comment.
#[must_use]
pub fn talktext(id: UserId, jtalkid: i64) -> Key {
    key(id, format!("talktext:{id}:{jtalkid}"))
}
/// Invalidated by: upload, deletion, keyword or default change.
#[must_use]
pub fn pics(id: UserId) -> Key {
    key(id, format!("upicinf:{id}"))
}
/// Invalidated by: change of its security, deletion.
#[must_use]
pub fn media(id: UserId, mediaid: i64) -> Key {
    key(id, format!("media:{id}:{mediaid}"))
}
/// Invalidated by: deletion of the file; a moved copy is found again after its short life.
#[must_use]
pub fn paths(id: UserId, file: &str) -> Key {
    key(id, format!("mogp:{file}"))
}
/// Invalidated by: a new notice, reading the inbox.
#[must_use]
pub fn unread(id: UserId) -> Key {
    key(id, format!("inbox:newct:{id}"))
}
/// Invalidated by: post, edit, delete, change of title.
#[must_use]
pub fn feed(id: UserId, kind: &str) -> Key {
    key(id, format!("feed:{id}:{kind}:p"))
}
