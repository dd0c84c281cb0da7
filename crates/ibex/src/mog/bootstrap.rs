//! `ibex mog bootstrap`: a cluster described on one command line, created as far as it is missing.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ibex_mogilefs_client::admin::{ClassSpec, HostSpec, Layout};
use ibex_mogilefs_client::{Client, DevId};

use crate::output::print_text;

/// Pause between two looks at the devices while waiting for them.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Arguments of `ibex mog bootstrap`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `NAME:MINDEVCOUNT`; may be repeated.
    #[arg(long = "class", value_name = "CLASS", value_parser = parse_class)]
    classes: Vec<(String, u32)>,
    /// `NAME[=IP]:PORT[/DEVID,DEVID…]`; may be repeated. Without an address the name is looked up; without devices the nth host has device n.
    #[arg(long = "host", value_name = "HOST", value_parser = parse_host)]
    hosts: Vec<HostArgument>,
    /// Wait up to this many seconds until every device is writeable; 0 = do not wait.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
}

/// A host as the command line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostArgument {
    name: String,
    ip: Option<String>,
    port: u16,
    devices: Vec<DevId>,
}

fn parse_class(text: &str) -> Result<(String, u32), String> {
    let (name, count) = text.split_once(':').ok_or("expected NAME:MINDEVCOUNT")?;
    let count = count
        .parse()
        .map_err(|_| format!("{count:?} is not a number of replicas"))?;
    if name.is_empty() || !(1..=255).contains(&count) {
        return Err("expected a name and 1 to 255 replicas".to_owned());
    }
    Ok((name.to_owned(), count))
}

fn parse_host(text: &str) -> Result<HostArgument, String> {
    let (place, devices) = text.split_once('/').unwrap_or((text, ""));
    let (who, port) = place.rsplit_once(':').ok_or("expected NAME[=IP]:PORT")?;
    let port = port
        .parse()
        .map_err(|_| format!("{port:?} is not a port"))?;
    let (name, ip) = match who.split_once('=') {
        Some((name, ip)) => (name, Some(ip.to_owned())),
        None => (who, None),
    };
    let numbers = devices.split(',').filter(|number| !number.is_empty());
    let devices = numbers.map(parse_device).collect::<Result<Vec<_>, _>>()?;
    Ok(HostArgument {
        name: name.to_owned(),
        ip,
        port,
        devices,
    })
}

/// `5` or `dev5`.
pub(super) fn parse_device(text: &str) -> Result<DevId, String> {
    let digits = text.strip_prefix("dev").unwrap_or(text);
    digits
        .parse()
        .map(DevId)
        .map_err(|_| format!("{text:?} is not a device number"))
}

/// Applies the description and says what changed.
///
/// # Errors
/// When a name has no address, the tracker refuses, or the devices are not writeable in time.
pub(super) async fn run(client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let classes = args
        .classes
        .iter()
        .map(|(name, count)| ClassSpec::new(name, *count))
        .collect();
    let mut hosts = Vec::new();
    for (index, host) in args.hosts.iter().enumerate() {
        hosts.push(resolve(host, index + 1).await?);
    }
    let changes = client.admin().apply(&Layout { classes, hosts }).await?;
    if changes.is_empty() {
        print_text("nothing to do\n");
    }
    for change in changes {
        print_text(&format!("{change}\n"));
    }
    if args.wait > 0 {
        wait_writeable(client, Duration::from_secs(args.wait)).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn resolve(host: &HostArgument, number: usize) -> anyhow::Result<HostSpec> {
    let ip = match &host.ip {
        Some(ip) => ip.clone(),
        None => look_up(&host.name, host.port).await?,
    };
    let devices = if host.devices.is_empty() {
        vec![DevId(u32::try_from(number).context("too many hosts")?)]
    } else {
        host.devices.clone()
    };
    Ok(HostSpec {
        name: host.name.clone(),
        ip,
        port: host.port,
        devices,
    })
}

/// The tables keep IPv4 addresses in a 15-byte column, so those come first.
async fn look_up(name: &str, port: u16) -> anyhow::Result<String> {
    let found: Vec<IpAddr> = tokio::net::lookup_host((name, port))
        .await
        .with_context(|| format!("look up {name}"))?
        .map(|address| address.ip())
        .collect();
    let first = found
        .iter()
        .find(|ip| ip.is_ipv4())
        .or_else(|| found.first());
    first
        .map(ToString::to_string)
        .with_context(|| format!("{name} has no address"))
}

async fn wait_writeable(client: &Client, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        client.admin().monitor_round().await?;
        let devices = client.admin().devices().await?;
        let waiting: Vec<_> = devices
            .iter()
            .filter(|device| device.status == "alive" && device.observed_state != "writeable")
            .map(|device| format!("dev{}", device.devid))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "not writeable after {} s: {}",
                patience.as_secs(),
                waiting.join(", ")
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_all_their_forms() {
        let plain = parse_host("store1:7500").unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.ip, plain.port),
            ("store1", None, 7500)
        );
        let full = parse_host("store1=10.0.0.1:7500/1,dev2").unwrap();
        assert_eq!(full.ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(full.devices.len(), 2);
        for bad in ["store1", "store1:x", "store1:1/x"] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn classes_need_a_sane_number_of_replicas() {
        assert_eq!(parse_class("photo:2"), Ok(("photo".to_owned(), 2)));
        for bad in ["photo", "photo:0", "photo:256", ":1", "photo:x"] {
            assert!(parse_class(bad).is_err(), "{bad}");
        }
    }
}
