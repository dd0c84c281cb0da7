//! `get_paths`: where to read a file.
//!
//! Owns the bounded check of the first path: probes are hedged, so that a hung node delays the answer by a fifth of a second and not by its timeout.

use super::files::client_zone;
use super::{Client, Outcome, file_domain};
use crate::snapshot::Snapshot;
use crate::tracker::Tracker;
use ibex_mogilefs_core::placement;
use ibex_mogilefs_proto::path::FidPath;
use ibex_mogilefs_proto::{DevId, ErrorCode, Fid, Pairs};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::task::JoinSet;

/// Fewest paths a client can ask for, and the default.
const PATHS_MIN: usize = 2;
/// Most paths; no class has more replicas.
const PATHS_MAX: u64 = 255;
/// A probe that has not answered for this long gets company.
const HEDGE_AFTER: Duration = Duration::from_millis(200);

pub(super) async fn get_paths(tracker: &Tracker, client: &Client, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let key = args.filled("key").ok_or(ErrorCode::NoKey)?;
    let wanted = args.number("pathcount").unwrap_or(0).min(PATHS_MAX);
    let wanted = usize::try_from(wanted).unwrap_or(PATHS_MIN).max(PATHS_MIN);
    let (file, devices) = tracker
        .store
        .file_with_devices(domain.id, key)
        .await?
        .ok_or(ErrorCode::UnknownKey)?;
    let snapshot = tracker.snapshot();
    let zone = client_zone(tracker, client);
    let mut order = placement::read_order(
        &snapshot.cluster,
        &devices,
        zone.as_deref(),
        &mut tracker.rng(),
    );
    if !args.is_set("noverify") {
        order = verified_first(tracker, order, file.fid, file.length).await;
    }
    let force_alt = args.value("zone") == Some(b"alt");
    let paths: Vec<String> = order
        .into_iter()
        .filter_map(|device| client_url(&snapshot, device, file.fid, client, force_alt))
        .take(wanted)
        .collect();
    let mut reply = Pairs::new().with_number("paths", paths.len() as u64);
    for (index, path) in (1..).zip(paths) {
        reply.push(format!("path{index}"), path);
    }
    Ok(reply)
}

fn client_url(
    snapshot: &Snapshot,
    device: DevId,
    fid: Fid,
    client: &Client,
    force_alt: bool,
) -> Option<String> {
    let (_, host) = snapshot.cluster.device(device)?;
    let ip: Option<Ipv4Addr> = match client.ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        Some(IpAddr::V6(ip)) => ip.to_ipv4_mapped(),
        None => None,
    };
    Some(FidPath::new(device, fid).url(host.address_for(ip, force_alt), host.get_port()))
}

/// The devices with one first that was seen to have the file in full length. Those seen not to have it are dropped; the rest keep their order. When
/// nobody answers in time the order is
/// left as it was: an unverified path is better than none.
async fn verified_first(tracker: &Tracker, order: Vec<DevId>, fid: Fid, length: u64) -> Vec<DevId> {
    let patience = tracker.config().node_timeout.std() * 2;
    let mut bad = Vec::new();
    let search = async {
        let mut waiting = order.iter().copied();
        let mut probes: JoinSet<(DevId, Option<bool>)> = JoinSet::new();
        loop {
            if let Some(device) = waiting.next() {
                start_probe(tracker, &mut probes, device, fid, length);
            } else if probes.is_empty() {
                return None;
            }
            let hedge = async {
                match waiting.len() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(HEDGE_AFTER).await,
                }
            };
            tokio::select! {
                ended = probes.join_next(), if !probes.is_empty() => match ended {
                    Some(Ok((device, Some(true)))) => return Some(device),
                    Some(Ok((device, _))) => bad.push(device),
                    Some(Err(_)) | None => {}
                },
                () = hedge => {}
            }
        }
    };
    let found = tokio::time::timeout(patience, search).await.ok().flatten();
    let rest: Vec<DevId> = order
        .iter()
        .copied()
        .filter(|device| Some(*device) != found && !bad.contains(device))
        .collect();
    let verified: Vec<DevId> = found.into_iter().chain(rest).collect();
    if verified.is_empty() { order } else { verified }
}

fn start_probe(
    tracker: &Tracker,
    probes: &mut JoinSet<(DevId, Option<bool>)>,
    device: DevId,
    fid: Fid,
    length: u64,
) {
    let Some(url) = tracker.read_url(device, fid) else {
        return;
    };
    let nodes = tracker.nodes.clone();
    probes.spawn(async move {
        let answer = nodes.head(&url).await;
        (device, answer.ok().map(|found| found == Some(length)))
    });
}
