//! Hosts and devices.

use super::{Outcome, Refusal, text};
use crate::store::small::HostChange;
use crate::tracker::Tracker;
use ibex_mogilefs_core::{DeviceState, Host, HostId, HostState, Netmask};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{DevId, ErrorCode, Pairs};
use std::net::Ipv4Addr;

/// Longest host name the column holds.
const NAME_BYTES_MAX: usize = 40;

pub(super) async fn create_host(tracker: &Tracker, args: &Pairs) -> Outcome {
    let name = host_name(args)?;
    if tracker
        .snapshot()
        .cluster
        .host_named(name.as_bytes())
        .is_some()
    {
        return Err(ErrorCode::HostExists.into());
    }
    args.filled("ip").ok_or(ErrorCode::NoIp)?;
    args.filled("port").ok_or(ErrorCode::NoPort)?;
    let change = host_change(args)?;
    let id = tracker.store.create_host(&name, change).await?;
    tracker.reload().await?;
    Ok(Pairs::new()
        .with_number("hostid", u64::from(id.0))
        .with("hostname", name))
}

pub(super) async fn update_host(tracker: &Tracker, args: &Pairs) -> Outcome {
    let name = host_name(args)?;
    let host = find_host(tracker, name.as_bytes())
        .await?
        .ok_or(ErrorCode::HostNotFound)?;
    tracker
        .store
        .update_host(host.id, host_change(args)?)
        .await?;
    tracker.reload().await?;
    tracker.wake(JobKind::Monitor);
    Ok(Pairs::new()
        .with_number("hostid", u64::from(host.id.0))
        .with("hostname", host.name))
}

pub(super) async fn delete_host(tracker: &Tracker, args: &Pairs) -> Outcome {
    let name = args.filled("host").ok_or(ErrorCode::UnknownHost)?;
    let host = find_host(tracker, name)
        .await?
        .ok_or(ErrorCode::UnknownHost)?;
    tracker.store.delete_host(host.id).await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}

fn host_name(args: &Pairs) -> Result<String, Refusal> {
    let name = text(args, "host").ok_or(ErrorCode::NoHost)?;
    if name.len() > NAME_BYTES_MAX {
        Err(ErrorCode::BadParams.into())
    } else {
        Ok(name.into_owned())
    }
}

async fn find_host(tracker: &Tracker, name: &[u8]) -> Result<Option<Host>, Refusal> {
    if let Some(host) = tracker.snapshot().cluster.host_named(name) {
        return Ok(Some(host.clone()));
    }
    tracker.reload_after_miss().await?;
    Ok(tracker.snapshot().cluster.host_named(name).cloned())
}

fn host_change(args: &Pairs) -> Result<HostChange, Refusal> {
    let address = |name: &str| match text(args, name) {
        Some(text) => match text.parse::<Ipv4Addr>() {
            Ok(_) => Ok(Some(text.into_owned())),
            Err(_) => Err(Refusal::with(
                ErrorCode::BadParams,
                format!("{name} is no IPv4 address"),
            )),
        },
        None => Ok(None),
    };
    let port = |name: &str| match args.filled(name) {
        Some(_) => match args
            .number(name)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port > 0)
        {
            Some(port) => Ok(Some(port)),
            None => Err(Refusal::with(
                ErrorCode::BadParams,
                format!("{name} is no port"),
            )),
        },
        None => Ok(None),
    };
    let state = match args.filled("status") {
        Some(name) => Some(HostState::from_name(name).ok_or(ErrorCode::UnknownState)?),
        None => None,
    };
    let altmask = text(args, "altmask").map(std::borrow::Cow::into_owned);
    if altmask
        .as_ref()
        .is_some_and(|mask| Netmask::parse(mask).is_none())
    {
        return Err(Refusal::with(ErrorCode::BadParams, "altmask is no network"));
    }
    // A name given with an empty value clears the column; one not given keeps it.
    let is_given = |name: &str| args.value(name).is_some();
    Ok(HostChange {
        state,
        ip: address("ip")?,
        http_port: port("port")?,
        get_port: is_given("getport").then(|| port("getport")).transpose()?,
        altip: is_given("altip").then(|| address("altip")).transpose()?,
        altmask: is_given("altmask").then_some(altmask),
    })
}

pub(super) fn get_hosts(tracker: &Tracker, args: &Pairs) -> Pairs {
    let snapshot = tracker.snapshot();
    let wanted = args.number("hostid");
    let hosts: Vec<&Host> = snapshot
        .cluster
        .hosts
        .values()
        .filter(|host| wanted.is_none_or(|wanted| wanted == u64::from(host.id.0)))
        .collect();
    let mut reply = Pairs::new().with_number("hosts", hosts.len() as u64);
    for (index, host) in (1..).zip(hosts) {
        let mut field = |name: &str, value: &str| reply.push(format!("host{index}_{name}"), value);
        field("hostid", &host.id.to_string());
        field("status", host.state.name());
        field("hostname", &host.name);
        field("hostip", &host.ip);
        field("http_port", &host.http_port.to_string());
        field(
            "http_get_port",
            &host
                .http_get_port
                .map(|port| port.to_string())
                .unwrap_or_default(),
        );
        field("altip", host.altip.as_deref().unwrap_or_default());
        field("altmask", host.altmask.as_deref().unwrap_or_default());
    }
    reply
}

pub(super) async fn create_device(tracker: &Tracker, args: &Pairs) -> Outcome {
    let state = match args.filled("state") {
        Some(name) => DeviceState::from_name(name).ok_or(ErrorCode::InvalidState)?,
        None => DeviceState::Alive,
    };
    let device = args
        .filled("devid")
        .and_then(DevId::parse)
        .ok_or(ErrorCode::InvalidDevid)?;
    let host = match (args.filled("hostname"), args.filled("hostid")) {
        (Some(name), _) => {
            find_host(tracker, name)
                .await?
                .ok_or(ErrorCode::UnknownHost)?
                .id
        }
        (None, Some(_)) => {
            let id = args
                .number("hostid")
                .and_then(|id| u32::try_from(id).ok())
                .map(HostId);
            id.filter(|id| tracker.snapshot().cluster.hosts.contains_key(id))
                .ok_or(ErrorCode::UnknownHostid)?
        }
        (None, None) => {
            return Err(Refusal::with(
                ErrorCode::BadArgs,
                "No hostid/hostname parameter",
            ));
        }
    };
    tracker.store.create_device(device, host, state).await?;
    tracker.reload().await?;
    tracker.wake(JobKind::Monitor);
    Ok(Pairs::new())
}

pub(super) fn get_devices(tracker: &Tracker, args: &Pairs) -> Pairs {
    let snapshot = tracker.snapshot();
    let wanted = args.number("devid");
    let devices: Vec<_> = snapshot
        .cluster
        .devices
        .values()
        .filter(|device| wanted.is_none_or(|wanted| wanted == u64::from(device.id.0)))
        .collect();
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let mut reply = Pairs::new().with_number("devices", devices.len() as u64);
    for (index, device) in (1..).zip(devices) {
        let mut field = |name: &str, value: String| reply.push(format!("dev{index}_{name}"), value);
        field("devid", device.id.to_string());
        field("hostid", device.host.to_string());
        field("status", device.state.to_string());
        field("weight", device.weight.to_string());
        field("observed_state", device.observed.name().to_owned());
        field(
            "utilization",
            device
                .utilization
                .map(|percent| format!("{percent:.2}"))
                .unwrap_or_default(),
        );
        field("mb_total", number(device.mb_total));
        field("mb_used", number(device.mb_used));
        field("mb_free", number(device.mb_free()));
        field("mb_asof", number(device.mb_asof));
        field(
            "reject_bad_md5",
            device
                .rejects_bad_md5
                .map(|rejects| u8::from(rejects).to_string())
                .unwrap_or_default(),
        );
    }
    reply
}

/// The device a `host` and `device` argument name together.
async fn named_device(tracker: &Tracker, args: &Pairs) -> Result<(DevId, DeviceState), Refusal> {
    let (Some(host), Some(device)) = (args.filled("host"), args.filled("device")) else {
        return Err(ErrorCode::BadParams.into());
    };
    let host = find_host(tracker, host)
        .await?
        .ok_or(ErrorCode::HostNotFound)?;
    let id = DevId::parse(device).ok_or(ErrorCode::NoDevice)?;
    let snapshot = tracker.snapshot();
    let device = snapshot
        .cluster
        .devices
        .get(&id)
        .ok_or(ErrorCode::NoDevice)?;
    if device.host != host.id {
        return Err(ErrorCode::HostMismatch.into());
    }
    Ok((id, device.state))
}

pub(super) async fn set_state(tracker: &Tracker, args: &Pairs) -> Outcome {
    let state = args
        .filled("state")
        .and_then(DeviceState::from_name)
        .ok_or(ErrorCode::BadParams)?;
    let (device, current) = named_device(tracker, args).await?;
    if !current.may_become(state) {
        return Err(ErrorCode::StateTooHigh.into());
    }
    tracker.store.set_device_state(device, state).await?;
    tracing::info!(devid = %device, from = current.name(), to = state.name(), "device state changed");
    tracker.reload().await?;
    tracker.wake(JobKind::Monitor);
    tracker.wake(JobKind::Reaper);
    Ok(Pairs::new())
}

pub(super) async fn set_weight(tracker: &Tracker, args: &Pairs) -> Outcome {
    let weight = args
        .number("weight")
        .and_then(|weight| u32::try_from(weight).ok())
        .filter(|&weight| weight <= 8_388_607);
    let weight = weight.ok_or(ErrorCode::BadParams)?;
    let (device, _) = named_device(tracker, args).await?;
    tracker.store.set_device_weight(device, weight).await?;
    tracker.reload().await?;
    Ok(Pairs::new())
}
