//! Domains and classes.

use super::{Outcome, domain, text};
use crate::snapshot::DEFAULT_CLASS;
use crate::store::small::ClassRow;
use crate::tracker::Tracker;
use ibex_mogilefs_core::{ClassId, Policy};
use ibex_mogilefs_proto::{ErrorCode, HashAlgorithm, Pairs};

/// Longest names the columns hold.
const DOMAIN_BYTES_MAX: usize = 255;
const CLASS_BYTES_MAX: usize = 50;

pub(super) async fn create_domain(tracker: &Tracker, args: &Pairs) -> Outcome {
    let name = args.filled("domain").ok_or(ErrorCode::NoDomain)?;
    if name.len() > DOMAIN_BYTES_MAX {
        return Err(ErrorCode::BadParams.into());
    }
    tracker.store.create_domain(name).await?;
    tracker.reload().await?;
    Ok(Pairs::new().with("domain", name))
}

pub(super) async fn delete_domain(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = domain(tracker, args, ErrorCode::DomainNotFound).await?;
    tracker.store.delete_domain(domain.id).await?;
    tracker.reload().await?;
    Ok(Pairs::new().with("domain", domain.name))
}

/// `create_class`, and `update_class` when `is_update` or the argument `update` says so.
pub(super) async fn create_class(tracker: &Tracker, args: &Pairs, is_update: bool) -> Outcome {
    args.filled("domain").ok_or(ErrorCode::NoDomain)?;
    let name = args.filled("class").ok_or(ErrorCode::NoClass)?;
    let mindevcount = args
        .number("mindevcount")
        .filter(|count| (1..=255).contains(count))
        .ok_or(ErrorCode::InvalidMindevcount)?;
    let policy = match text(args, "replpolicy") {
        Some(policy) => {
            Policy::parse(&policy).map_err(|error| {
                super::Refusal::with(ErrorCode::InvalidReplpolicy, error.to_string())
            })?;
            Some(policy.into_owned())
        }
        None => None,
    };
    let hash = match args.filled("hashtype") {
        None => None,
        Some(b"NONE") => Some(None),
        Some(name) => Some(Some(
            HashAlgorithm::from_name(name).ok_or(ErrorCode::InvalidHashtype)?,
        )),
    };
    let domain = domain(tracker, args, ErrorCode::DomainNotFound).await?;
    let row = ClassRow {
        name: name.to_vec(),
        mindevcount: u32::try_from(mindevcount).unwrap_or(255),
        policy,
        hash,
    };
    if name.len() > CLASS_BYTES_MAX {
        return Err(ErrorCode::BadParams.into());
    }
    let existing = domain.class_named(name).map(|class| class.id);
    let is_default = name == DEFAULT_CLASS;
    match (is_update || args.is_set("update"), existing) {
        (false, Some(id)) if !(is_default && id == ClassId(0)) => {
            return Err(ErrorCode::ClassExists.into());
        }
        (true, None) => return Err(ErrorCode::ClassNotFound.into()),
        (true, Some(id)) if id != ClassId(0) => {
            tracker.store.update_class_row(domain.id, id, &row).await?
        }
        // The default class exists without a row; its first change makes one.
        (true, Some(id)) => match tracker
            .store
            .create_class(domain.id, row.clone(), true)
            .await
        {
            Err(crate::store::StoreError::Refused(ErrorCode::ClassExists)) => {
                tracker.store.update_class_row(domain.id, id, &row).await?
            }
            outcome => outcome?,
        },
        (false, _) => {
            tracker
                .store
                .create_class(domain.id, row, is_default)
                .await?
        }
    }
    tracker.reload().await?;
    Ok(Pairs::new()
        .with("domain", domain.name)
        .with("class", name)
        .with_number("mindevcount", mindevcount))
}

pub(super) async fn delete_class(tracker: &Tracker, args: &Pairs) -> Outcome {
    let name = args.filled("class");
    let domain = domain(tracker, args, ErrorCode::DomainNotFound).await?;
    let name = name.ok_or(ErrorCode::NoClass)?;
    if name == DEFAULT_CLASS {
        return Err(ErrorCode::NodelDefaultClass.into());
    }
    let class = domain.class_named(name).ok_or(ErrorCode::ClassNotFound)?.id;
    tracker.store.delete_class(domain.id, class).await?;
    tracker.reload().await?;
    Ok(Pairs::new()
        .with("domain", &domain.name)
        .with("class", name))
}

pub(super) fn get_domains(tracker: &Tracker) -> Pairs {
    let snapshot = tracker.snapshot();
    let mut reply = Pairs::new().with_number("domains", snapshot.domains.len() as u64);
    for (d, domain) in (1..).zip(snapshot.domains.values()) {
        reply.push(format!("domain{d}"), &domain.name);
        reply.push(
            format!("domain{d}classes"),
            domain.classes.len().to_string(),
        );
        for (c, class) in (1..).zip(domain.classes.values()) {
            let policy = if class.policy_text.is_empty() {
                class.policy.to_string()
            } else {
                class.policy_text.clone()
            };
            reply.push(format!("domain{d}class{c}name"), &class.name);
            reply.push(
                format!("domain{d}class{c}mindevcount"),
                class.mindevcount.to_string(),
            );
            reply.push(format!("domain{d}class{c}replpolicy"), policy);
            reply.push(
                format!("domain{d}class{c}hashtype"),
                class.hash.map_or("NONE", HashAlgorithm::name),
            );
        }
    }
    reply
}
