//! Domains, classes, hosts, devices, settings: the small tables that a tracker keeps in memory.

use super::{Result, Store, StoreError, key_value};
use crate::snapshot::{Class, Domain};
use ibex_mogilefs_core::{
    ClassId, Device, DeviceState, DomainId, Host, HostId, HostState, Observed, Policy,
};
use ibex_mogilefs_proto::{DevId, ErrorCode, HashAlgorithm};
use ibex_sql::{Row, Value, params};
use std::collections::BTreeMap;

/// All small tables.
#[derive(Debug, Default)]
pub(crate) struct SmallTables {
    pub(crate) domains: BTreeMap<DomainId, Domain>,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) devices: BTreeMap<DevId, Device>,
    pub(crate) settings: BTreeMap<String, String>,
}

/// A class as it is written.
#[derive(Debug, Clone)]
pub(crate) struct ClassRow {
    pub(crate) name: Vec<u8>,
    pub(crate) mindevcount: u32,
    /// `None` keeps what is stored.
    pub(crate) policy: Option<String>,
    /// `Some(None)` clears.
    pub(crate) hash: Option<Option<HashAlgorithm>>,
}

/// Columns of a host that change; `None` keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostChange {
    pub(crate) state: Option<HostState>,
    pub(crate) ip: Option<String>,
    pub(crate) http_port: Option<u16>,
    /// `Some(None)` clears.
    pub(crate) get_port: Option<Option<u16>>,
    pub(crate) altip: Option<Option<String>>,
    pub(crate) altmask: Option<Option<String>>,
}

impl Store {
    /// Reads all small tables in one snapshot.
    pub(crate) async fn small_tables(&self, default_mindevcount: u32) -> Result<SmallTables> {
        let (namespace, classname) = (self.sql.bytes("namespace"), self.sql.bytes("classname"));
        let domains = format!("SELECT dmid, {namespace} FROM domain");
        let classes = format!(
            "SELECT dmid, classid, {classname}, mindevcount, hashtype, replpolicy FROM class"
        );
        self.db
            .read(move |tx| {
                let (domains, classes) = (domains.clone(), classes.clone());
                Box::pin(async move {
                    let mut tables = SmallTables::default();
                    for row in tx.query(domains, params![]).await? {
                        let id = DomainId(row.get(0)?);
                        let classes = BTreeMap::from([(ClassId(0), Class::default_with(default_mindevcount))]);
                        tables.domains.insert(
                            id,
                            Domain {
                                id,
                                name: row.get(1)?,
                                classes,
                            },
                        );
                    }
                    for row in tx.query(classes, params![]).await? {
                        if let Some(domain) = tables.domains.get_mut(&DomainId(row.get(0)?)) {
                            let class = class(&row)?;
                            domain.classes.insert(class.id, class);
                        }
                    }
                    for row in tx.query("SELECT hostid, status, http_port, http_get_port, hostname, hostip, altip, altmask FROM host", params![]).await? {
                        let host = host(&row)?;
                        tables.hosts.insert(host.id, host);
                    }
                    for row in tx.query("SELECT devid, hostid, status, weight, mb_total, mb_used, mb_asof FROM device", params![]).await? {
                        let device = device(&row)?;
                        tables.devices.insert(device.id, device);
                    }
                    for row in tx.query("SELECT field, value FROM server_settings", params![]).await? {
                        let value = row.get::<Option<String>>(1)?.unwrap_or_default();
                        tables.settings.insert(row.get(0)?, value);
                    }
                    Ok::<_, StoreError>(tables)
                })
            })
            .await
    }

    pub(crate) async fn create_domain(&self, name: &[u8]) -> Result<()> {
        let (name, text) = (key_value(name), self.sql.text());
        let created = self.db.write(move |tx| {
            let name = name.clone();
            Box::pin(async move {
                let next = tx
                    .query_one("SELECT COALESCE(MAX(dmid), 0) + 1 FROM domain", params![])
                    .await?;
                let next: u64 = next.map_or(Ok(1), |row| row.get(0))?;
                tx.execute(
                    format!("INSERT INTO domain (dmid, namespace) VALUES (?, {text})"),
                    vec![Value::from(next), name],
                )
                .await
            })
        });
        match created.await {
            Ok(_) => Ok(()),
            Err(error) if error.is_unique_violation() => {
                Err(StoreError::Refused(ErrorCode::DomainExists))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty domain and its default class.
    pub(crate) async fn delete_domain(&self, domain: DomainId) -> Result<()> {
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    if tx
                        .query_one(
                            "SELECT 1 FROM file WHERE dmid = ? LIMIT 1",
                            params![domain.0],
                        )
                        .await?
                        .is_some()
                    {
                        return Err(StoreError::Refused(ErrorCode::DomainHasFiles));
                    }
                    if tx
                        .query_one(
                            "SELECT 1 FROM class WHERE dmid = ? AND classid > 0 LIMIT 1",
                            params![domain.0],
                        )
                        .await?
                        .is_some()
                    {
                        return Err(StoreError::Refused(ErrorCode::DomainHasClasses));
                    }
                    tx.execute("DELETE FROM class WHERE dmid = ?", params![domain.0])
                        .await?;
                    tx.execute("DELETE FROM domain WHERE dmid = ?", params![domain.0])
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Creates a class with the next free number, or with 0 for the default class.
    pub(crate) async fn create_class(
        &self,
        domain: DomainId,
        class: ClassRow,
        is_default: bool,
    ) -> Result<()> {
        let text = self.sql.text();
        let created = self.db.write(move |tx| {
            let class = class.clone();
            Box::pin(async move {
                let id = if is_default { 0 } else { next_class(tx, domain).await? };
                let insert = format!("INSERT INTO class (dmid, classid, classname, mindevcount, hashtype, replpolicy) VALUES (?, ?, {text}, ?, ?, ?)");
                let hash = class.hash.flatten().map(|hash| u32::from(hash.number()));
                let policy = class.policy.filter(|policy| !policy.is_empty());
                tx.execute(insert, params![domain.0, id, key_value(&class.name), class.mindevcount, hash, policy]).await?;
                Ok::<_, StoreError>(())
            })
        });
        match created.await {
            Err(StoreError::Sql(error)) if error.is_unique_violation() => {
                Err(StoreError::Refused(ErrorCode::ClassExists))
            }
            outcome => outcome,
        }
    }

    pub(crate) async fn update_class_row(
        &self,
        domain: DomainId,
        id: ClassId,
        class: &ClassRow,
    ) -> Result<()> {
        let mut sql = "UPDATE class SET mindevcount = ?".to_owned();
        let mut params = params![class.mindevcount];
        if let Some(policy) = &class.policy {
            sql.push_str(", replpolicy = ?");
            params.push(if policy.is_empty() {
                Value::Null
            } else {
                Value::from(policy)
            });
        }
        if let Some(hash) = class.hash {
            sql.push_str(", hashtype = ?");
            params.push(hash.map_or(Value::Null, |hash| Value::from(u32::from(hash.number()))));
        }
        sql.push_str(" WHERE dmid = ? AND classid = ?");
        params.extend(params![domain.0, u32::from(id.0)]);
        self.db.execute(sql, params).await?;
        Ok(())
    }

    pub(crate) async fn delete_class(&self, domain: DomainId, class: ClassId) -> Result<()> {
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    for table in ["file", "tempfile"] {
                        let sql =
                            format!("SELECT 1 FROM {table} WHERE dmid = ? AND classid = ? LIMIT 1");
                        if tx
                            .query_one(sql, params![domain.0, u32::from(class.0)])
                            .await?
                            .is_some()
                        {
                            return Err(StoreError::Refused(ErrorCode::ClassHasFiles));
                        }
                    }
                    tx.execute(
                        "DELETE FROM class WHERE dmid = ? AND classid = ?",
                        params![domain.0, u32::from(class.0)],
                    )
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Creates a host with the next free number.
    pub(crate) async fn create_host(&self, name: &str, change: HostChange) -> Result<HostId> {
        let name = name.to_owned();
        self.db
            .write(move |tx| {
                let (name, change) = (name.clone(), change.clone());
                Box::pin(async move {
                    if tx.query_one("SELECT 1 FROM host WHERE hostname = ?", params![&name]).await?.is_some() {
                        return Err(StoreError::Refused(ErrorCode::HostExists));
                    }
                    let next = tx.query_one("SELECT COALESCE(MAX(hostid), 0) + 1 FROM host", params![]).await?;
                    let next: u32 = next.map_or(Ok(1), |row| row.get(0))?;
                    let insert = "INSERT INTO host (hostid, status, http_port, http_get_port, hostname, hostip, altip, altmask) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
                    let state = change.state.unwrap_or(HostState::Down).name();
                    let params = params![
                        next,
                        state,
                        change.http_port.map(u32::from),
                        change.get_port.flatten().map(u32::from),
                        name,
                        change.ip,
                        change.altip.flatten(),
                        change.altmask.flatten()
                    ];
                    tx.execute(insert, params).await?;
                    Ok(HostId(next))
                })
            })
            .await
    }

    pub(crate) async fn update_host(&self, id: HostId, change: HostChange) -> Result<()> {
        let mut sets: Vec<(&str, Value)> = Vec::new();
        if let Some(state) = change.state {
            sets.push(("status", Value::from(state.name())));
        }
        if let Some(ip) = change.ip {
            sets.push(("hostip", Value::from(ip)));
        }
        if let Some(port) = change.http_port {
            sets.push(("http_port", Value::from(port)));
        }
        if let Some(port) = change.get_port {
            sets.push(("http_get_port", port.map_or(Value::Null, Value::from)));
        }
        if let Some(altip) = change.altip {
            sets.push(("altip", altip.map_or(Value::Null, Value::from)));
        }
        if let Some(altmask) = change.altmask {
            sets.push(("altmask", altmask.map_or(Value::Null, Value::from)));
        }
        if sets.is_empty() {
            return Ok(());
        }
        let columns: Vec<String> = sets
            .iter()
            .map(|(column, _)| format!("{column} = ?"))
            .collect();
        let mut params: Vec<Value> = sets.into_iter().map(|(_, value)| value).collect();
        params.push(Value::from(id.0));
        self.db
            .execute(
                format!("UPDATE host SET {} WHERE hostid = ?", columns.join(", ")),
                params,
            )
            .await?;
        Ok(())
    }

    pub(crate) async fn delete_host(&self, id: HostId) -> Result<()> {
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    if tx
                        .query_one(
                            "SELECT 1 FROM device WHERE hostid = ? LIMIT 1",
                            params![id.0],
                        )
                        .await?
                        .is_some()
                    {
                        return Err(StoreError::Refused(ErrorCode::HostNotEmpty));
                    }
                    tx.execute("DELETE FROM host WHERE hostid = ?", params![id.0])
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    pub(crate) async fn create_device(
        &self,
        id: DevId,
        host: HostId,
        state: DeviceState,
    ) -> Result<()> {
        let insert = "INSERT INTO device (devid, hostid, status) VALUES (?, ?, ?)";
        match self
            .db
            .execute(insert, params![id.0, host.0, state.name()])
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_unique_violation() => {
                Err(StoreError::Refused(ErrorCode::ExistingDevid))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn set_device_state(&self, id: DevId, state: DeviceState) -> Result<()> {
        self.db
            .execute(
                "UPDATE device SET status = ? WHERE devid = ?",
                params![state.name(), id.0],
            )
            .await?;
        Ok(())
    }

    pub(crate) async fn set_device_weight(&self, id: DevId, weight: u32) -> Result<()> {
        self.db
            .execute(
                "UPDATE device SET weight = ? WHERE devid = ?",
                params![weight, id.0],
            )
            .await?;
        Ok(())
    }

    /// Notes the usage of devices, all in one transaction.
    pub(crate) async fn set_device_usage(&self, usages: Vec<(DevId, u64, u64)>) -> Result<()> {
        let now = self.sql.now();
        self.db
            .write(move |tx| {
                let usages = usages.clone();
                Box::pin(async move {
                    for (device, total, used) in usages {
                        let sql = format!("UPDATE device SET mb_total = ?, mb_used = ?, mb_asof = {now} WHERE devid = ?");
                        tx.execute(sql, params![total, used, device.0]).await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    pub(crate) async fn setting(&self, field: &str) -> Result<Option<String>> {
        let row = self
            .db
            .query_one(
                "SELECT value FROM server_settings WHERE field = ?",
                params![field],
            )
            .await?;
        Ok(row
            .map(|row| row.get::<Option<String>>(0))
            .transpose()?
            .flatten())
    }

    /// Stores a setting; `None` removes it.
    pub(crate) async fn set_setting(&self, field: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => {
                self.db
                    .execute(
                        "REPLACE INTO server_settings (field, value) VALUES (?, ?)",
                        params![field, value],
                    )
                    .await?
            }
            None => {
                self.db
                    .execute(
                        "DELETE FROM server_settings WHERE field = ?",
                        params![field],
                    )
                    .await?
            }
        };
        Ok(())
    }
}

async fn next_class(tx: &mut ibex_sql::Tx, domain: DomainId) -> Result<u32> {
    let next = tx
        .query_one(
            "SELECT COALESCE(MAX(classid), 0) + 1 FROM class WHERE dmid = ?",
            params![domain.0],
        )
        .await?;
    let next: u32 = next.map_or(Ok(1), |row| row.get(0))?;
    // The column holds a byte.
    if next > 255 {
        Err(StoreError::Refused(ErrorCode::BadParams))
    } else {
        Ok(next)
    }
}

fn class(row: &Row) -> std::result::Result<Class, ibex_sql::Error> {
    let policy_text = row.get::<Option<String>>(5)?.unwrap_or_default();
    let policy = if policy_text.is_empty() {
        Ok(Policy::default())
    } else {
        Policy::parse(&policy_text)
    };
    Ok(Class {
        id: ClassId(row.get(1)?),
        name: row.get(2)?,
        mindevcount: row.get::<u32>(3)?.max(1),
        hash: row.get::<Option<u64>>(4)?.and_then(HashAlgorithm::from_number),
        policy: policy.unwrap_or_else(|error| {
            tracing::warn!(policy = policy_text, %error, "class has a policy this tracker does not know, using MultipleHosts()");
            Policy::default()
        }),
        policy_text,
    })
}

fn host(row: &Row) -> std::result::Result<Host, ibex_sql::Error> {
    let text = |index| {
        row.get::<Option<String>>(index)
            .map(Option::unwrap_or_default)
    };
    let filled = |index| {
        row.get::<Option<String>>(index)
            .map(|value| value.filter(|value| !value.is_empty()))
    };
    Ok(Host {
        id: HostId(row.get(0)?),
        state: HostState::from_stored(text(1)?.as_bytes()),
        http_port: row.get::<Option<u16>>(2)?.unwrap_or(7500),
        http_get_port: row.get::<Option<u16>>(3)?.filter(|&port| port > 0),
        name: text(4)?,
        ip: text(5)?,
        altip: filled(6)?,
        altmask: filled(7)?,
    })
}

fn device(row: &Row) -> std::result::Result<Device, ibex_sql::Error> {
    Ok(Device {
        id: DevId(row.get(0)?),
        host: HostId(row.get(1)?),
        state: DeviceState::from_stored(
            row.get::<Option<String>>(2)?.unwrap_or_default().as_bytes(),
        ),
        weight: row
            .get::<Option<i64>>(3)?
            .map_or(100, |weight| u32::try_from(weight).unwrap_or(0)),
        mb_total: row.get(4)?,
        mb_used: row.get(5)?,
        mb_asof: row.get(6)?,
        observed: Observed::Unknown,
        utilization: None,
        rejects_bad_md5: None,
    })
}
