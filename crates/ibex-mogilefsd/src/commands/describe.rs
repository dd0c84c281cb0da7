//! What is known about files: info, debug, lists.

use super::files::named_file;
use super::{Outcome, Refusal, file_domain};
use crate::store::files::File;
use crate::store::join_devids;
use crate::store::queues::{Queue, QueueType};
use crate::tracker::Tracker;
use ibex_mogilefs_proto::path::FidPath;
use ibex_mogilefs_proto::{ErrorCode, Fid, Pairs};

/// Most keys of one answer, and the default.
const KEYS_MAX: u64 = 1000;
/// Most files of one `list_fids`.
const FIDS_MAX: u64 = 500;
/// Files of one `list_fids` when the client does not say.
const FIDS_DEFAULT: u64 = 100;

pub(super) async fn file_info(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let key = args.filled("key").ok_or(ErrorCode::NoKey)?;
    let (file, devices) = tracker
        .store
        .file_with_devices(domain.id, key)
        .await?
        .ok_or(ErrorCode::UnknownKey)?;
    let class = tracker.class_of(&file);
    let mut reply = Pairs::new()
        .with_number("fid", file.fid.0)
        .with("domain", &domain.name)
        .with("class", &class.name)
        .with("key", &file.key)
        .with_number("length", file.length)
        .with_number("devcount", u64::from(file.devcount));
    if args.is_set("devices") {
        reply.push("devids", join_devids(&devices));
    }
    if class.hash.is_some() {
        let checksum = tracker.store.checksum(file.fid).await?;
        reply.push(
            "checksum",
            checksum.map_or_else(|| "MISSING".to_owned(), |sum| sum.to_string()),
        );
    }
    Ok(reply)
}

pub(super) async fn file_debug(tracker: &Tracker, args: &Pairs) -> Outcome {
    let fid = match args.filled("fid") {
        Some(digits) => Fid::parse(digits).ok_or(ErrorCode::UnknownFid)?,
        None => named_file(tracker, args, "key").await?.fid,
    };
    let mut reply = Pairs::new();
    if let Some(file) = tracker.store.file(fid).await? {
        describe_file(tracker, &file, &mut reply);
    }
    if let Some(temp) = tracker.store.temp_file(fid).await? {
        reply = reply
            .with_number("tempfile_fid", temp.fid.0)
            .with_number("tempfile_createtime", temp.created)
            .with_number("tempfile_classid", u64::from(temp.class.0))
            .with_number("tempfile_dmid", u64::from(temp.domain.0))
            .with("tempfile_dkey", &temp.key)
            .with("tempfile_devids", join_devids(&temp.devices));
    }
    let queues = [
        ("replqueue", Queue::Replicate),
        ("delqueue", Queue::Delete),
        ("rebqueue", Queue::Other(QueueType::Rebalance)),
        ("fsckqueue", Queue::Other(QueueType::Fsck)),
    ];
    for (prefix, queue) in queues {
        if let Some((next_try, failcount)) = tracker.store.queue_row(queue, fid).await? {
            reply.push(format!("{prefix}_fid"), fid.to_string());
            reply.push(format!("{prefix}_nexttry"), next_try.to_string());
            reply.push(format!("{prefix}_failcount"), failcount.to_string());
        }
    }
    let devices = tracker.store.devices_of(fid).await?;
    if !devices.is_empty() {
        reply.push("devids", join_devids(&devices));
        for device in devices {
            let url = tracker
                .read_url(device, fid)
                .unwrap_or_else(|| FidPath::new(device, fid).to_string());
            reply.push(format!("devpath_{device}"), url);
        }
    }
    let checksum = tracker.store.checksum(fid).await?;
    reply.push(
        "checksum",
        checksum.map_or_else(|| "NONE".to_owned(), |sum| sum.to_string()),
    );
    Ok(reply)
}

fn describe_file(tracker: &Tracker, file: &File, reply: &mut Pairs) {
    let snapshot = tracker.snapshot();
    let class = tracker.class_of(file);
    for (name, number) in [
        ("fid_fid", file.fid.0),
        ("fid_dmid", u64::from(file.domain.0)),
        ("fid_length", file.length),
        ("fid_classid", u64::from(file.class.0)),
        ("fid_devcount", u64::from(file.devcount)),
    ] {
        reply.push(name, number.to_string());
    }
    reply.push("fid_dkey", &file.key);
    reply.push(
        "fid_domain",
        snapshot
            .domains
            .get(&file.domain)
            .map_or(&b""[..], |domain| &domain.name),
    );
    reply.push("fid_class", &class.name);
}

pub(super) async fn list_keys(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let prefix = args.value("prefix").unwrap_or_default();
    let after = args.value("after").unwrap_or_default();
    let limit = args
        .number("limit")
        .filter(|&limit| limit > 0)
        .unwrap_or(KEYS_MAX)
        .min(KEYS_MAX);
    if !after.is_empty() && !after.starts_with(prefix) {
        return Err(ErrorCode::AfterMismatch.into());
    }
    let keys = tracker
        .store
        .list_keys(domain.id, prefix, after, limit)
        .await?;
    let last = keys.last().ok_or(Refusal::from(ErrorCode::NoneMatch))?;
    let mut reply = Pairs::new()
        .with_number("key_count", keys.len() as u64)
        .with("next_after", last);
    for (index, key) in (1..).zip(&keys) {
        reply.push(format!("key_{index}"), key);
    }
    Ok(reply)
}

pub(super) async fn list_fids(tracker: &Tracker, args: &Pairs) -> Outcome {
    let from = args.number("from").unwrap_or(0);
    let count = args
        .number("to")
        .filter(|&count| count > 0)
        .unwrap_or(FIDS_DEFAULT)
        .min(FIDS_MAX);
    let files = tracker.store.list_files(from, count).await?;
    let snapshot = tracker.snapshot();
    let mut reply = Pairs::new().with_number("fid_count", files.len() as u64);
    for (index, file) in (1..).zip(&files) {
        let class = tracker.class_of(file);
        let domain = snapshot
            .domains
            .get(&file.domain)
            .map_or(&b""[..], |domain| &domain.name);
        reply.push(format!("fid_{index}_fid"), file.fid.to_string());
        reply.push(format!("fid_{index}_domain"), domain);
        reply.push(format!("fid_{index}_class"), &class.name);
        reply.push(format!("fid_{index}_key"), &file.key);
        reply.push(format!("fid_{index}_length"), file.length.to_string());
        reply.push(format!("fid_{index}_devcount"), file.devcount.to_string());
    }
    Ok(reply)
}
