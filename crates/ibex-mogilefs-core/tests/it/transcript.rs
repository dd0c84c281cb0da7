//! Transcripts: a small cluster, a file, a question, and the answer as text.

use goldenscript::{ArgumentConsumer, Command, Context};
use ibex_base::rng::Rng;
use ibex_mogilefs_core::placement::{NewFile, destinations, read_order};
use ibex_mogilefs_core::policy::Situation;
use ibex_mogilefs_core::replicate::{Progress, Step, next_step};
use ibex_mogilefs_core::{
    Cluster, DevId, Device, DeviceState, Host, HostId, HostState, Netmask, Observed, Policy,
    Verdict,
};
use std::collections::BTreeSet;
use std::error::Error;

#[derive(Default)]
struct Runner {
    cluster: Cluster,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut rng = Rng::new(1);
        let answer = match command.name.as_str() {
            // host <id> ip=<ip> [state=alive]
            "host" => {
                let id = HostId(args.next_pos().ok_or("host id")?.parse()?);
                let state: String = parsed(&mut args, "state")?.unwrap_or_else(|| "alive".into());
                let ip: String = parsed(&mut args, "ip")?.unwrap_or_else(|| format!("10.0.0.{id}"));
                self.cluster.hosts.insert(id, host(id, &state, ip));
                String::new()
            }
            // dev <id> host=<id> [state=alive] [observed=writeable] [free=50]
            "dev" => {
                let id = DevId(args.next_pos().ok_or("device id")?.parse()?);
                let state: String = parsed(&mut args, "state")?.unwrap_or_else(|| "alive".into());
                let observed: String =
                    parsed(&mut args, "observed")?.unwrap_or_else(|| "writeable".into());
                let free: u64 = parsed(&mut args, "free")?.unwrap_or(50);
                let host = HostId(parsed(&mut args, "host")?.ok_or("host=")?);
                self.cluster
                    .devices
                    .insert(id, device(id, host, &state, &observed, free));
                String::new()
            }
            "zone" => {
                let name = args.next_pos().ok_or("zone name")?.to_owned();
                let network: String = parsed(&mut args, "net")?.ok_or("net=")?;
                self.cluster
                    .zones
                    .add(&name, [Netmask::parse(&network).ok_or("network")?]);
                String::new()
            }
            // decide <policy> on=1,2 [min=2] [failed=3]
            "decide" | "step" => {
                let policy = Policy::parse(args.next_pos().ok_or("policy")?)?;
                let on = devices(&parsed::<String>(&mut args, "on")?.unwrap_or_default());
                let failed = devices(&parsed::<String>(&mut args, "failed")?.unwrap_or_default());
                let mindevcount = parsed(&mut args, "min")?.unwrap_or(2);
                if command.name == "step" {
                    let progress = Progress { on, failed };
                    show_step(&next_step(
                        &self.cluster,
                        &policy,
                        mindevcount,
                        &progress,
                        &mut rng,
                    ))
                } else {
                    let situation = Situation {
                        cluster: &self.cluster,
                        on: &on,
                        failed: &failed,
                        mindevcount,
                    };
                    show_verdict(policy.decide(&situation, &mut rng))
                }
            }
            // open [count=3] [bytes=N] [zone=Z]: destinations, hosts in brackets
            "open" => {
                let zone: Option<String> = parsed(&mut args, "zone")?;
                let wish = NewFile {
                    bytes: parsed(&mut args, "bytes")?,
                    count: parsed(&mut args, "count")?.unwrap_or(3),
                    zone: zone.as_deref(),
                };
                let chosen = destinations(&self.cluster, wish, &mut rng);
                let hosts = self.cluster.hosts_of(&chosen).len();
                format!(
                    "{} devices on {hosts} hosts: {}",
                    chosen.len(),
                    list(&sorted(chosen))
                )
            }
            "read" => list(&read_order(
                &self.cluster,
                &devices(&parsed::<String>(&mut args, "on")?.unwrap_or_default())
                    .into_iter()
                    .collect::<Vec<_>>(),
                None,
                &mut rng,
            )),
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(answer)
    }
}

fn parsed<T: std::str::FromStr>(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
) -> Result<Option<T>, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    Ok(args.take_key(key).map(str::parse).transpose()?)
}

fn host(id: HostId, state: &str, ip: String) -> Host {
    Host {
        id,
        name: format!("host{id}"),
        state: HostState::from_name(state.as_bytes()).unwrap(),
        ip,
        http_port: 7500,
        http_get_port: None,
        altip: None,
        altmask: None,
    }
}

fn device(id: DevId, host: HostId, state: &str, observed: &str, free_percent: u64) -> Device {
    Device {
        id,
        host,
        state: DeviceState::from_name(state.as_bytes()).unwrap(),
        weight: 100,
        mb_total: Some(100_000),
        mb_used: Some(100_000 - 1000 * free_percent),
        mb_asof: None,
        observed: match observed {
            "writeable" => Observed::Writeable,
            "readable" => Observed::Readable,
            "unreachable" => Observed::Unreachable,
            _ => Observed::Unknown,
        },
        utilization: None,
        rejects_bad_md5: None,
    }
}

fn devices(text: &str) -> BTreeSet<DevId> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| DevId(part.parse().unwrap()))
        .collect()
}

fn sorted(mut devices: Vec<DevId>) -> Vec<DevId> {
    devices.sort_unstable();
    devices
}

fn list(devices: &[DevId]) -> String {
    devices
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn show_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Happy => "happy".into(),
        Verdict::TooHappy => "too happy".into(),
        Verdict::Stuck => "stuck".into(),
        Verdict::Place { ideal, desperate } => format!(
            "place ideal={} desperate={}",
            list(&sorted(ideal)),
            list(&sorted(desperate))
        ),
    }
}

fn show_step(step: &Step) -> String {
    match step {
        Step::Done => "done".into(),
        Step::Copy {
            to,
            desperate: false,
        } => format!("copy to {to}"),
        Step::Copy {
            to,
            desperate: true,
        } => format!("copy to {to} for want of better"),
        Step::Remove(device) => format!("remove {device}"),
        Step::Stuck => "stuck".into(),
    }
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            goldenscript::run(&mut Runner::default(), concat!("tests/it/transcripts/", stringify!($name))).expect("transcript");
        })*
    };
}

transcripts! { multiple_hosts networks states union removal placement }
