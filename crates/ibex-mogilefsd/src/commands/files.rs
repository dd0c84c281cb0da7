//! Opening uploads, deleting, renaming, changing class, copying by hand.

use super::{Client, Outcome, Refusal, file_domain};
use crate::copy::{self, Copy};
use crate::store::files::{File, Opening};
use crate::tracker::Tracker;
use ibex_mogilefs_core::placement::{self, DESTINATIONS_MAX, NewFile};
use ibex_mogilefs_core::{ClassId, DomainId};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{DevId, ErrorCode, Fid, Pairs};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tracker that just started waits this long for its first look at the devices, instead of refusing.
const FIRST_ROUND_PATIENCE: Duration = Duration::from_secs(10);

/// Longest key: what the columns of a database made by this tracker hold on MySQL.
const KEY_BYTES_MAX: usize = 1024;

pub(super) async fn create_open(tracker: &Arc<Tracker>, client: &Client, args: &Pairs) -> Outcome {
    let started = Instant::now();
    let domain = file_domain(tracker, args).await?;
    let key = args.value("key").unwrap_or_default();
    if key.len() > KEY_BYTES_MAX {
        return Err(ErrorCode::KeyTooLong.into());
    }
    let class = match args.filled("class") {
        Some(name) => domain.class_named(name).ok_or(ErrorCode::UnregClass)?.id,
        None => ClassId(0),
    };
    let explicit = match args.filled("fid") {
        None | Some(b"0") => None,
        Some(digits) => Some(Fid::parse(digits).ok_or(ErrorCode::BadParams)?),
    };
    if !tracker.wait_monitor(false, FIRST_ROUND_PATIENCE).await {
        tracing::warn!("no monitor round yet");
    }
    let devices = choose(tracker, client, args);
    if devices.is_empty() {
        return Err(ErrorCode::NoDevices.into());
    }
    let chosen = started.elapsed();
    let opening = Opening {
        explicit,
        domain: domain.id,
        class,
        key: key.to_vec(),
        devices: devices.clone(),
    };
    let fid = tracker
        .store
        .open_file(opening, tracker.highest_fid_at_start)
        .await?;
    let stored = started.elapsed();
    for &device in &devices {
        tracker.make_directories(device, fid).await;
    }
    let mut reply = destinations(tracker, &devices, fid, args.is_set("multi_dest"))?;
    if args.is_set("debug_profile") {
        let points = [
            ("find_devices", chosen),
            ("store_tempfile", stored - chosen),
            ("make_directories", started.elapsed() - stored),
        ];
        reply = reply.with_number("profpoints", points.len() as u64);
        for (index, (name, took)) in (1..).zip(points) {
            reply.push(format!("prof_{index}_name"), name);
            reply.push(
                format!("prof_{index}_time"),
                format!("{:.3}", took.as_secs_f64()),
            );
        }
    }
    Ok(reply)
}

fn choose(tracker: &Tracker, client: &Client, args: &Pairs) -> Vec<DevId> {
    let snapshot = tracker.snapshot();
    let zone = client_zone(tracker, client);
    let wish = NewFile {
        bytes: args.number("size"),
        count: if args.is_set("multi_dest") {
            DESTINATIONS_MAX
        } else {
            1
        },
        zone: zone.as_deref(),
    };
    placement::destinations(&snapshot.cluster, wish, &mut tracker.rng())
}

/// The zone of a client, when this tracker looks at zones at all.
pub(super) fn client_zone(tracker: &Tracker, client: &Client) -> Option<String> {
    let local = tracker.config().local_network;
    if local.is_empty() {
        return None;
    }
    let snapshot = tracker.snapshot();
    let of_client = match client.ip {
        Some(IpAddr::V4(ip)) => snapshot.cluster.zones.zone_of(ip).map(str::to_owned),
        Some(IpAddr::V6(_)) | None => None,
    };
    of_client.or(Some(local))
}

fn destinations(tracker: &Tracker, devices: &[DevId], fid: Fid, multi: bool) -> Outcome {
    let url = |device: DevId| {
        tracker
            .url(device, fid)
            .ok_or(Refusal::from(ErrorCode::NoDevices))
    };
    if !multi {
        let device = *devices.first().ok_or(ErrorCode::NoDevices)?;
        return Ok(Pairs::new()
            .with_number("fid", fid.0)
            .with_number("devid", u64::from(device.0))
            .with("path", url(device)?));
    }
    let mut reply = Pairs::new()
        .with_number("dev_count", devices.len() as u64)
        .with_number("fid", fid.0);
    for (index, &device) in (1..).zip(devices) {
        reply.push(format!("devid_{index}"), device.to_string());
        reply.push(format!("path_{index}"), url(device)?);
    }
    Ok(reply)
}

/// The file a command names by `domain` and the argument `key_name`.
pub(super) async fn named_file(
    tracker: &Tracker,
    args: &Pairs,
    key_name: &str,
) -> Result<File, Refusal> {
    let domain = file_domain(tracker, args).await?;
    let key = args.filled(key_name).ok_or(ErrorCode::NoKey)?;
    find(tracker, domain.id, key).await
}

async fn find(tracker: &Tracker, domain: DomainId, key: &[u8]) -> Result<File, Refusal> {
    tracker
        .store
        .file_by_key(domain, key)
        .await?
        .ok_or_else(|| ErrorCode::UnknownKey.into())
}

pub(super) async fn delete(tracker: &Tracker, args: &Pairs) -> Outcome {
    let file = named_file(tracker, args, "key").await?;
    if !tracker.store.delete_file(file.fid).await? {
        return Err(ErrorCode::UnknownKey.into());
    }
    tracker.wake(JobKind::Delete);
    Ok(Pairs::new())
}

pub(super) async fn rename(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let (Some(from), Some(to)) = (args.filled("from_key"), args.filled("to_key")) else {
        return Err(ErrorCode::NoKey.into());
    };
    if to.len() > KEY_BYTES_MAX {
        return Err(ErrorCode::KeyTooLong.into());
    }
    let file = find(tracker, domain.id, from).await?;
    if from == to {
        return Err(ErrorCode::KeyExists.into());
    }
    tracker.store.rename_file(file.fid, to).await?;
    Ok(Pairs::new())
}

pub(super) async fn update_class(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let key = args.filled("key").ok_or(ErrorCode::NoKey)?;
    let name = args.filled("class").ok_or(ErrorCode::NoClass)?;
    let class = domain.class_named(name).ok_or(ErrorCode::ClassNotFound)?.id;
    let file = tracker
        .store
        .file_by_key(domain.id, key)
        .await?
        .ok_or(ErrorCode::InvalidKey)?;
    if tracker.store.devices_of(file.fid).await?.is_empty() {
        return Err(ErrorCode::NoDevices.into());
    }
    if file.class != class {
        tracker.store.update_class(file.fid, class).await?;
        tracker.wake(JobKind::Replicate);
    }
    Ok(Pairs::new())
}

pub(super) async fn replicate_now(tracker: &Tracker) -> Outcome {
    let count = tracker.store.replicate_now().await?;
    tracker.wake(JobKind::Replicate);
    Ok(Pairs::new().with_number("count", count))
}

/// Copies one replica because an administrator says so. The new location is not recorded, as in the original.
pub(super) async fn http_copy(tracker: &Tracker, args: &Pairs) -> Outcome {
    let device = |name| {
        args.value(name)
            .and_then(DevId::parse)
            .ok_or(ErrorCode::NoDevid)
    };
    let (from, to) = (device("sdevid")?, device("ddevid")?);
    let fid = args
        .value("fid")
        .and_then(Fid::parse)
        .ok_or(ErrorCode::NoFid)?;
    let file = tracker
        .store
        .file(fid)
        .await?
        .ok_or(ErrorCode::UnknownFid)?;
    let expected = tracker.store.checksum(fid).await?;
    let wish = Copy {
        fid,
        length: file.length,
        from,
        to,
        expected,
    };
    match copy::copy(tracker, &wish).await {
        Ok(_) => Ok(Pairs::new()),
        Err(error) => Err(Refusal::with(ErrorCode::CopyErr, error.to_string())),
    }
}
