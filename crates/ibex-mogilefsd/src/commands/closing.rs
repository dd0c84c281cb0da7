//! `create_close`: the moment an upload becomes a file.
//!
//! Owns the order of checks, which clients rely on, and that every failure after the upload was claimed hands its bytes to the delete queue.

use super::{Outcome, Refusal, file_domain};
use crate::copy::digest_of;
use crate::store::files::{Closing, TempFile};
use crate::tracker::Tracker;
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::{Checksum, DevId, ErrorCode, Fid, Pairs};

/// The arguments, checked for form.
struct Request<'a> {
    fid: Fid,
    device: DevId,
    path: &'a [u8],
    key: &'a [u8],
    /// 0 and absent both mean unknown: clients send 0.
    size: Option<u64>,
    checksum: Option<Checksum>,
    verify_checksum: bool,
}

impl<'a> Request<'a> {
    fn read(args: &'a Pairs) -> Result<Self, Refusal> {
        let fid = args
            .filled("fid")
            .and_then(Fid::parse)
            .ok_or(ErrorCode::NoFid)?;
        let device = args
            .filled("devid")
            .and_then(DevId::parse)
            .ok_or(ErrorCode::NoDevid)?;
        let path = args.filled("path").ok_or(ErrorCode::NoPath)?;
        let checksum = match args.filled("checksum") {
            Some(text) => Some(Checksum::parse(text).ok_or(ErrorCode::InvalidChecksumFormat)?),
            None => None,
        };
        Ok(Self {
            fid,
            device,
            path,
            key: args.value("key").unwrap_or_default(),
            size: args.number("size").filter(|&size| size > 0),
            checksum,
            verify_checksum: args.is_set("checksumverify"),
        })
    }
}

pub(super) async fn create_close(tracker: &Tracker, args: &Pairs) -> Outcome {
    let domain = file_domain(tracker, args).await?;
    let request = Request::read(args)?;
    let expected_path = tracker
        .url(request.device, request.fid)
        .ok_or(ErrorCode::BogusArgs)?;
    if expected_path.as_bytes() != request.path {
        return Err(ErrorCode::BogusArgs.into());
    }
    let temp = tracker
        .store
        .temp_file(request.fid)
        .await?
        .ok_or(ErrorCode::NoTempFile)?;
    if temp.domain != domain.id {
        return Err(ErrorCode::NoTempFile.into());
    }
    match verify(tracker, &request, &temp, &expected_path).await {
        Ok(Some(length)) => commit(tracker, &request, &temp, length).await?,
        Ok(None) => discard(tracker, temp).await?,
        Err(refusal) => {
            discard(tracker, temp).await?;
            return Err(refusal);
        }
    }
    Ok(Pairs::new())
}

/// Length of the uploaded file after all checks; `None` when the client gives its upload up by an empty key.
async fn verify(
    tracker: &Tracker,
    request: &Request<'_>,
    temp: &TempFile,
    url: &str,
) -> Result<Option<u64>, Refusal> {
    let device = request.device;
    if !temp.devices.contains(&device) {
        let valid: Vec<String> = temp.devices.iter().map(ToString::to_string).collect();
        let text = format!(
            "File uploaded to invalid dest {device}. Valid devices were: {}",
            valid.join(",")
        );
        return Err(Refusal::with(ErrorCode::InvalidDestdev, text));
    }
    if request.key.is_empty() {
        return Ok(None);
    }
    let expected = request
        .size
        .map_or_else(|| "-1".to_owned(), |size| size.to_string());
    let unverified = |what: &str, error: &str| {
        let text = format!("Expected: {expected}; actual: 0 ({what}); path: {url}; error: {error}");
        Refusal::with(ErrorCode::SizeVerifyError, text)
    };
    let length = match tracker.nodes.head(url).await {
        Ok(Some(length)) => length,
        Ok(None) => return Err(unverified("missing", "")),
        Err(error) => return Err(unverified("cantreach", &error.to_string())),
    };
    if request.size.is_some_and(|size| size != length) {
        let text = format!("Expected: {expected}; actual: {length}; path: {url}");
        return Err(Refusal::with(ErrorCode::SizeMismatch, text));
    }
    if let Some(checksum) = request
        .checksum
        .as_ref()
        .filter(|_| request.verify_checksum)
    {
        let found = digest_of(
            tracker,
            device,
            request.fid,
            checksum.algorithm,
            length,
            false,
        )
        .await;
        if found.as_ref().ok().and_then(Option::as_ref) != Some(checksum) {
            let actual = match found {
                Ok(Some(actual)) => actual.to_string(),
                Ok(None) => "missing".to_owned(),
                Err(error) => error,
            };
            let text = format!(
                "Expected: Checksum[f={};{}={}]; actual: {actual}; path: {url}",
                request.fid,
                checksum.algorithm,
                checksum.hex()
            );
            return Err(Refusal::with(ErrorCode::ChecksumMismatch, text));
        }
    }
    Ok(Some(length))
}

async fn commit(
    tracker: &Tracker,
    request: &Request<'_>,
    temp: &TempFile,
    length: u64,
) -> Result<(), Refusal> {
    let snapshot = tracker.snapshot();
    let class = snapshot.class_of(
        temp.domain,
        temp.class,
        tracker.config().default_mindevcount,
    );
    let closing = Closing {
        fid: request.fid,
        domain: temp.domain,
        class: temp.class,
        key: request.key.to_vec(),
        device: request.device,
        length,
        // A digest of another kind than the class keeps is of no use to it.
        checksum: request
            .checksum
            .clone()
            .filter(|sum| class.hash == Some(sum.algorithm)),
    };
    tracker.store.close_file(closing).await?;
    tracker.wake(JobKind::Replicate);
    tracker.wake(JobKind::Delete);
    Ok(())
}

async fn discard(tracker: &Tracker, temp: TempFile) -> Result<(), Refusal> {
    if !tracker.store.discard_temp(temp).await? {
        return Err(ErrorCode::NoTempFile.into());
    }
    tracker.wake(JobKind::Delete);
    Ok(())
}
