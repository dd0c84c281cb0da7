//! The cluster's description: domains, classes, hosts, devices, settings.
//!
//! Owns the admin commands and [`Layout`], an idempotent "make it so" for them, which a bootstrap command or a demo applies as often as it likes.

use crate::client::Client;
use crate::error::Error;
use crate::tracker::Repeat;
use ibex_mogilefs_proto::{Command, DevId, ErrorCode, Pairs};

/// Administration of a cluster.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

/// How a class wants its files kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSpec {
    /// Name; `default` is the class of files stored without one.
    pub name: String,
    /// Replicas, 1 to 255.
    pub mindevcount: u32,
    /// Policy text such as `MultipleHosts(2)`; `None` leaves it as it is.
    pub replpolicy: Option<String>,
    /// Digest kept for each file, such as `MD5`, or `NONE`; `None` leaves it as it is.
    pub hashtype: Option<String>,
}

impl ClassSpec {
    /// A class with the usual policy that keeps MD5 checksums.
    #[must_use]
    pub fn new(name: impl Into<String>, mindevcount: u32) -> Self {
        Self {
            name: name.into(),
            mindevcount,
            replpolicy: None,
            hashtype: Some("MD5".into()),
        }
    }
}

/// A storage node and its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Name, unique.
    pub name: String,
    /// Address trackers and clients use.
    pub ip: String,
    /// HTTP port.
    pub port: u16,
    /// Disks by number.
    pub devices: Vec<DevId>,
}

/// What a cluster should at least contain. [`Admin::apply`] creates what is missing and corrects addresses and classes; it never removes anything and
/// leaves the states of existing hosts
/// and devices alone, because an operator may have changed those on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Classes of the client's domain.
    pub classes: Vec<ClassSpec>,
    /// Storage nodes.
    pub hosts: Vec<HostSpec>,
}

/// A storage node as the tracker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// Number.
    pub hostid: u32,
    /// Name.
    pub name: String,
    /// `alive`, `down`, `readonly` or `dead`.
    pub status: String,
    /// Address.
    pub ip: String,
    /// HTTP port.
    pub port: u16,
}

/// A disk as the tracker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number.
    pub devid: DevId,
    /// Its node.
    pub hostid: u32,
    /// `alive`, `down`, `readonly`, `drain` or `dead`.
    pub status: String,
    /// `writeable`, `readable`, `unreachable`, or empty while unknown.
    pub observed_state: String,
    /// Size in MB, when known.
    pub mb_total: Option<u64>,
    /// Free in MB, when known.
    pub mb_free: Option<u64>,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sends any command with any arguments: the door to everything that has no method here. Not repeated when its fate is unknown.
    ///
    /// # Errors
    /// As every tracker call.
    pub async fn call(&self, command: Command, args: Pairs) -> Result<Pairs, Error> {
        self.client.call(command, args, Repeat::Never).await
    }

    async fn read(&self, command: Command, args: Pairs) -> Result<Pairs, Error> {
        self.client.call(command, args, Repeat::Safely).await
    }

    /// Creates the client's domain; whether it is new.
    ///
    /// # Errors
    /// As every tracker call.
    pub async fn create_domain(&self) -> Result<bool, Error> {
        let args = Pairs::new().with("domain", self.client.domain());
        created(
            self.call(Command::CreateDomain, args).await,
            ErrorCode::DomainExists,
        )
    }

    /// Removes the client's domain, which must be empty.
    ///
    /// # Errors
    /// [`Error::Refused`] while it has files or classes.
    pub async fn delete_domain(&self) -> Result<(), Error> {
        self.call(
            Command::DeleteDomain,
            Pairs::new().with("domain", self.client.domain()),
        )
        .await
        .map(drop)
    }

    /// Creates a class; whether it is new.
    ///
    /// # Errors
    /// [`Error::Refused`] for a bad policy, digest or count.
    pub async fn create_class(&self, class: &ClassSpec) -> Result<bool, Error> {
        created(
            self.call(Command::CreateClass, self.class_args(class))
                .await,
            ErrorCode::ClassExists,
        )
    }

    /// Changes a class.
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not exist, or as [`Admin::create_class`].
    pub async fn update_class(&self, class: &ClassSpec) -> Result<(), Error> {
        self.call(Command::UpdateClassDef, self.class_args(class))
            .await
            .map(drop)
    }

    /// Removes a class without files.
    ///
    /// # Errors
    /// [`Error::Refused`] while it has files.
    pub async fn delete_class(&self, name: &str) -> Result<(), Error> {
        let args = Pairs::new()
            .with("domain", self.client.domain())
            .with("class", name);
        self.call(Command::DeleteClass, args).await.map(drop)
    }

    fn class_args(&self, class: &ClassSpec) -> Pairs {
        let mut args = Pairs::new()
            .with("domain", self.client.domain())
            .with("class", &class.name)
            .with_number("mindevcount", u64::from(class.mindevcount));
        if let Some(policy) = &class.replpolicy {
            args = args.with("replpolicy", policy);
        }
        if let Some(hashtype) = &class.hashtype {
            args = args.with("hashtype", hashtype);
        }
        args
    }

    /// Classes of the client's domain.
    ///
    /// # Errors
    /// [`Error::Refused`] when the domain does not exist.
    pub async fn classes(&self) -> Result<Vec<ClassSpec>, Error> {
        let reply = self.read(Command::GetDomains, Pairs::new()).await?;
        let domains = reply.number("domains").unwrap_or(0);
        let index = (1..=domains)
            .find(|index| reply.value(&format!("domain{index}")) == Some(self.client.domain()))
            .ok_or_else(|| refused(ErrorCode::UnregDomain))?;
        let count = reply.number(&format!("domain{index}classes")).unwrap_or(0);
        let field =
            |class: u64, name: &str| text(&reply, &format!("domain{index}class{class}{name}"));
        Ok((1..=count)
            .map(|class| ClassSpec {
                name: field(class, "name"),
                mindevcount: field(class, "mindevcount").parse().unwrap_or(0),
                replpolicy: Some(field(class, "replpolicy")),
                hashtype: Some(field(class, "hashtype")),
            })
            .collect())
    }

    /// Creates a node that takes files at once; whether it is new. Its devices are not created.
    ///
    /// # Errors
    /// [`Error::Refused`] when another node has the address.
    pub async fn create_host(&self, host: &HostSpec) -> Result<bool, Error> {
        let args = host_args(host).with("status", "alive");
        created(
            self.call(Command::CreateHost, args).await,
            ErrorCode::HostExists,
        )
    }

    /// Changes a node's address.
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not exist.
    pub async fn update_host(&self, host: &HostSpec) -> Result<(), Error> {
        self.call(Command::UpdateHost, host_args(host))
            .await
            .map(drop)
    }

    /// All nodes.
    ///
    /// # Errors
    /// As every tracker call.
    pub async fn hosts(&self) -> Result<Vec<HostInfo>, Error> {
        let reply = self.read(Command::GetHosts, Pairs::new()).await?;
        let count = reply.number("hosts").unwrap_or(0);
        let field = |index: u64, name: &str| text(&reply, &format!("host{index}_{name}"));
        Ok((1..=count)
            .map(|index| HostInfo {
                hostid: field(index, "hostid").parse().unwrap_or(0),
                name: field(index, "hostname"),
                status: field(index, "status"),
                ip: field(index, "hostip"),
                port: field(index, "http_port").parse().unwrap_or(0),
            })
            .collect())
    }

    /// Creates a disk of a node, alive; whether it is new.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown node.
    pub async fn create_device(&self, hostname: &str, devid: DevId) -> Result<bool, Error> {
        let args = Pairs::new()
            .with("hostname", hostname)
            .with_number("devid", u64::from(devid.0))
            .with("state", "alive");
        created(
            self.call(Command::CreateDevice, args).await,
            ErrorCode::ExistingDevid,
        )
    }

    /// All disks.
    ///
    /// # Errors
    /// As every tracker call.
    pub async fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        let reply = self.read(Command::GetDevices, Pairs::new()).await?;
        let count = reply.number("devices").unwrap_or(0);
        Ok((1..=count)
            .filter_map(|index| {
                let name = |field: &str| format!("dev{index}_{field}");
                Some(DeviceInfo {
                    devid: DevId::parse(reply.value(&name("devid"))?)?,
                    hostid: text(&reply, &name("hostid")).parse().unwrap_or(0),
                    status: text(&reply, &name("status")),
                    observed_state: text(&reply, &name("observed_state")),
                    mb_total: reply.number(&name("mb_total")),
                    mb_free: reply.number(&name("mb_free")),
                })
            })
            .collect())
    }

    /// Changes a disk's state to `alive`, `down`, `readonly`, `drain` or `dead`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `state_too_high` from dead to alive, and for unknown names.
    pub async fn set_state(&self, hostname: &str, devid: DevId, state: &str) -> Result<(), Error> {
        let args = Pairs::new()
            .with("host", hostname)
            .with_number("device", u64::from(devid.0))
            .with("state", state);
        self.call(Command::SetState, args).await.map(drop)
    }

    /// Changes a node's state to `alive`, `down`, `readonly` or `dead`.
    ///
    /// # Errors
    /// [`Error::Refused`] for unknown names.
    pub async fn set_host_state(&self, hostname: &str, state: &str) -> Result<(), Error> {
        let args = Pairs::new().with("host", hostname).with("status", state);
        self.call(Command::UpdateHost, args).await.map(drop)
    }

    /// Changes a cluster setting; an empty value removes it.
    ///
    /// # Errors
    /// [`Error::Refused`] for settings that are not writable or values of the wrong form.
    pub async fn set_setting(&self, key: &str, value: &str) -> Result<(), Error> {
        let args = Pairs::new().with("key", key).with("value", value);
        self.call(Command::SetServerSetting, args).await.map(drop)
    }

    /// Makes the asked tracker probe all devices now and answer afterwards.
    ///
    /// # Errors
    /// As every tracker call.
    pub async fn monitor_round(&self) -> Result<(), Error> {
        self.read(Command::DoMonitorRound, Pairs::new())
            .await
            .map(drop)
    }

    /// Makes the cluster contain at least `layout` and the client's domain; the changes made, one phrase each, empty when all was there.
    ///
    /// # Errors
    /// The first refusal. What was done before stays; applying again goes on from there.
    pub async fn apply(&self, layout: &Layout) -> Result<Vec<String>, Error> {
        let mut changes = Vec::new();
        if self.create_domain().await? {
            changes.push(format!(
                "domain {} created",
                String::from_utf8_lossy(self.client.domain())
            ));
        }
        self.apply_classes(&layout.classes, &mut changes).await?;
        self.apply_hosts(&layout.hosts, &mut changes).await?;
        Ok(changes)
    }

    async fn apply_classes(
        &self,
        wanted: &[ClassSpec],
        changes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let existing = self.classes().await?;
        for class in wanted {
            let found = existing.iter().find(|known| known.name == class.name);
            let same = |known: &ClassSpec| {
                known.mindevcount == class.mindevcount
                    && class
                        .hashtype
                        .as_ref()
                        .is_none_or(|hashtype| known.hashtype.as_ref() == Some(hashtype))
                    && class
                        .replpolicy
                        .as_ref()
                        .is_none_or(|policy| known.replpolicy.as_ref() == Some(policy))
            };
            match found {
                Some(known) if same(known) => {}
                Some(_) => {
                    self.update_class(class).await?;
                    changes.push(format!("class {} changed", class.name));
                }
                None if class.name == "default" => {
                    self.update_class(class).await?;
                    changes.push("class default set".into());
                }
                None => {
                    if self.create_class(class).await? {
                        changes.push(format!("class {} created", class.name));
                    }
                }
            }
        }
        Ok(())
    }

    async fn apply_hosts(
        &self,
        wanted: &[HostSpec],
        changes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let hosts = self.hosts().await?;
        let devices = self.devices().await?;
        for host in wanted {
            match hosts.iter().find(|known| known.name == host.name) {
                Some(known) if known.ip == host.ip && known.port == host.port => {}
                Some(_) => {
                    self.update_host(host).await?;
                    changes.push(format!(
                        "host {} now at {}:{}",
                        host.name, host.ip, host.port
                    ));
                }
                None => {
                    if self.create_host(host).await? {
                        changes.push(format!("host {} created", host.name));
                    }
                }
            }
            for &devid in &host.devices {
                if devices.iter().all(|known| known.devid != devid)
                    && self.create_device(&host.name, devid).await?
                {
                    changes.push(format!("dev{devid} created on {}", host.name));
                }
            }
        }
        Ok(())
    }
}

fn host_args(host: &HostSpec) -> Pairs {
    Pairs::new()
        .with("host", &host.name)
        .with("ip", &host.ip)
        .with_number("port", u64::from(host.port))
}

/// Turns "already there" into `false`.
fn created(outcome: Result<Pairs, Error>, exists: ErrorCode) -> Result<bool, Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(exists) => Ok(false),
        Err(error) => Err(error),
    }
}

fn refused(code: ErrorCode) -> Error {
    Error::Refused {
        code: code.code().to_owned(),
        text: code.text().to_owned(),
    }
}

fn text(reply: &Pairs, name: &str) -> String {
    reply
        .value(name)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}
