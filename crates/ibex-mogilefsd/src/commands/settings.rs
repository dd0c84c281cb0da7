//! Settings of the cluster, and the small commands that only wait or answer.

use super::{Outcome, Refusal, text};
use crate::tracker::Tracker;
use ibex_mogilefs_core::netmask;
use ibex_mogilefs_proto::{ErrorCode, HashAlgorithm, Pairs};
use std::time::Duration;

/// Longest `sleep`; more is a mistake, and a connection must not be held for ever.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Longest wait for a fresh monitor round: every node may hang for its timeout.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn sleep(tracker: &Tracker, args: &Pairs) -> Outcome {
    let duration = Duration::from_secs(args.number("duration").unwrap_or(10)).min(SLEEP_MAX);
    let draining = tracker.kit.draining();
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = draining.cancelled() => {}
    }
    Ok(Pairs::new())
}

pub(super) fn test(args: &Pairs) -> Outcome {
    if args.is_set("crash") {
        Err(ErrorCode::Failure.into())
    } else {
        Ok(Pairs::new())
    }
}

pub(super) async fn monitor_round(tracker: &Tracker) -> Outcome {
    tracker.reload().await?;
    if tracker.wait_monitor(true, ROUND_PATIENCE).await {
        Ok(Pairs::new())
    } else {
        Err(ErrorCode::Failure.into())
    }
}

pub(super) async fn server_setting(tracker: &Tracker, args: &Pairs) -> Outcome {
    let key = text(args, "key").ok_or(ErrorCode::BadParams)?;
    let value = tracker.store.setting(&key).await?.unwrap_or_default();
    Ok(Pairs::new()
        .with("key", key.as_bytes())
        .with("value", value))
}

pub(super) async fn server_settings(tracker: &Tracker) -> Outcome {
    tracker.reload().await?;
    let snapshot = tracker.snapshot();
    let shown: Vec<(&String, &String)> = snapshot
        .settings
        .iter()
        .filter(|(field, _)| !field.starts_with("fsck_") || *field == "fsck_checksum")
        .collect();
    let mut reply = Pairs::new().with_number("key_count", shown.len() as u64);
    for (index, (field, value)) in (1..).zip(shown) {
        reply.push(format!("key_{index}"), field);
        reply.push(format!("value_{index}"), value);
    }
    Ok(reply)
}

pub(super) async fn set_server_setting(tracker: &Tracker, args: &Pairs) -> Outcome {
    let key = text(args, "key").ok_or(ErrorCode::BadParams)?;
    let value = String::from_utf8_lossy(args.value("value").unwrap_or_default()).into_owned();
    let stored = checked(&key, &value)?;
    tracker.store.set_setting(&key, stored.as_deref()).await?;
    if key.starts_with("slave_") && key != "slave_version" {
        let version = tracker
            .store
            .setting("slave_version")
            .await?
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
        tracker
            .store
            .set_setting("slave_version", Some(&(version + 1).to_string()))
            .await?;
    }
    tracker.reload().await?;
    Ok(Pairs::new())
}

/// The value to store; `None` removes the setting.
fn checked(key: &str, value: &str) -> Result<Option<String>, Refusal> {
    let invalid =
        |what: &str| Refusal::with(ErrorCode::InvalidFormat, format!("{key} must be {what}"));
    let unless_empty = || (!value.is_empty()).then(|| value.to_owned());
    match key {
        "skip_devcount" | "skip_mkcol" | "case_sensitive_list_keys" => {
            match value.to_ascii_lowercase().as_bytes().first() {
                None | Some(b'0' | b'f' | b'n') => Ok(Some("0".into())),
                Some(b'1' | b't' | b'y') => Ok(Some("1".into())),
                Some(_) if value.eq_ignore_ascii_case("off") => Ok(Some("0".into())),
                Some(_) if value.eq_ignore_ascii_case("on") => Ok(Some("1".into())),
                Some(_) => Err(invalid("a boolean")),
            }
        }
        "memcache_ttl" | "internal_queue_limit" => match value.parse::<u32>() {
            Ok(_) => Ok(unless_empty()),
            Err(_) if value.is_empty() => Ok(None),
            Err(_) => Err(invalid("a number")),
        },
        "memcache_servers" | "network_zones" => Ok(unless_empty()),
        "fsck_checksum" => match value {
            "class" | "" => Ok(None),
            "off" => Ok(Some("off".into())),
            name if HashAlgorithm::from_name(name.as_bytes()).is_some() => Ok(unless_empty()),
            _ => Err(invalid("off, class or a digest")),
        },
        _ if key.starts_with("zone_") => match netmask::parse_list(value) {
            Some(_) => Ok(unless_empty()),
            None => Err(invalid("a list of networks")),
        },
        _ if key.starts_with("slave_") || key.starts_with("x_") || key.starts_with("queue_") => {
            Ok(unless_empty())
        }
        _ => Err(ErrorCode::NotWritable.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let stored = |key, value| checked(key, value).ok();
        assert_eq!(stored("skip_mkcol", "on"), Some(Some("1".into())));
        assert_eq!(stored("skip_mkcol", "false"), Some(Some("0".into())));
        assert_eq!(stored("skip_mkcol", "maybe"), None);
        assert_eq!(
            stored("zone_a", "10.0.0.0/8"),
            Some(Some("10.0.0.0/8".into()))
        );
        assert_eq!(stored("zone_a", "ten"), None);
        assert_eq!(stored("fsck_checksum", "class"), Some(None));
        assert_eq!(stored("fsck_checksum", "CRC"), None);
        assert_eq!(stored("schema_version", "18"), None);
        assert_eq!(stored("queue_rate_for_fsck", ""), Some(None));
    }
}
