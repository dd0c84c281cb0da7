//! The blocking client, raw meta requests, and values in other clients' clothes.

use crate::server::{Memcached, patient};
use bytes::Bytes;
use ibex_memcached_client::{
    Client, Codec, Compression, Convention, Error, Expiry, Item, LeaseOptions, MetaCode,
    MetaRequest, Verb, blocking,
};
use ibex_testkit::skip;
use std::convert::Infallible;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_program_without_event_loop() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let cache = blocking::Client::connect(patient([server.address()])).unwrap();
    cache.set("k", "v", Expiry::Never).unwrap();
    assert!(!cache.add("k", "w", Expiry::Never).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let cache = cache.clone();
            std::thread::spawn(move || cache.get("k").unwrap().unwrap().value)
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), "v");
    }
    assert_eq!(cache.get_multi(&["k", "absent"]).unwrap().len(), 1);
    cache.set("n", "1", Expiry::Never).unwrap();
    assert_eq!(cache.incr("n", 2).unwrap(), Some(3));
    let options = LeaseOptions::new(Duration::from_secs(60));
    let compute = || Ok::<_, Infallible>(Bytes::from_static(b"made"));
    assert_eq!(cache.get_or_compute("c", options, compute).unwrap(), "made");
    cache.invalidate("c", Duration::from_secs(60)).unwrap();
    assert_eq!(cache.get("c").unwrap(), None);
    assert!(cache.delete("k").unwrap());
    let appended = cache.run(|cache| cache.append("n", "0"));
    assert!(appended.unwrap());
    assert_eq!(cache.get("n").unwrap().unwrap().value, "30");
    assert_eq!(cache.run(Client::version).unwrap().len(), 1);
}

#[tokio::test]
async fn raw_meta_requests() {
    for server in Memcached::each() {
        let cache = Client::connect(patient([server.address()])).await.unwrap();
        let meta = async |request: MetaRequest| cache.meta("k", &request).await.unwrap();
        let get = || MetaRequest::get().flag(b'v');
        assert_eq!(meta(get()).await.code, MetaCode::Miss);
        let stored = meta(MetaRequest::set("12").number(b'F', 5).number(b'T', 600)).await;
        assert_eq!(stored.code, MetaCode::Done);
        let found = meta(get().flag(b'f').flag(b't').flag(b's').token(b'O', "tag")).await;
        assert_eq!(
            (found.code, &found.value[..]),
            (MetaCode::Value, &b"12"[..])
        );
        assert_eq!((found.number(b'f'), found.number(b's')), (Some(5), Some(2)));
        assert!(
            found
                .number(b't')
                .is_some_and(|left| (1..=600).contains(&left))
        );
        assert_eq!(found.flags[&b'O'], "tag");
        let counted = meta(MetaRequest::arithmetic().flag(b'v').number(b'D', 30)).await;
        assert_eq!(
            (counted.code, &counted.value[..]),
            (MetaCode::Value, &b"42"[..])
        );
        let swapped = meta(MetaRequest::set("x").number(b'C', 1)).await;
        assert_eq!(swapped.code, MetaCode::Exists);
        let added = meta(MetaRequest::set("x").token(b'M', "E")).await;
        assert_eq!(added.code, MetaCode::NotStored);
        assert_eq!(meta(MetaRequest::delete()).await.code, MetaCode::Done);
        assert_eq!(meta(MetaRequest::delete()).await.code, MetaCode::NotFound);
        let quiet = cache.meta("k", &get().flag(b'q')).await;
        assert!(matches!(quiet, Err(Error::Request(_))));
        // A key that only base64 can carry.
        let binary = MetaRequest::set("spaces").flag(b'b');
        assert_eq!(
            cache.meta("YSBi", &binary).await.unwrap().code,
            MetaCode::Done
        );
    }
}

#[tokio::test]
async fn compressed_and_json_values() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let plain = Client::connect(patient([server.address()])).await.unwrap();
    let value = vec![b'x'; 100_000];
    for convention in [Convention::Python, Convention::Php, Convention::Perl] {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let codec = Codec::new(convention).with_compression(compression);
            let config = patient([server.address()]).with_codec(codec);
            let cache = Client::connect(config).await.unwrap();
            cache
                .store(Verb::Set, "big", &value, 1, Expiry::Never)
                .await
                .unwrap();
            let stored = plain.get("big").await.unwrap().unwrap();
            assert!(stored.value.len() < 1000, "{convention:?} {compression:?}");
            let same = |item: &Item| item.value == value && item.flags == 1;
            assert!(same(&cache.get("big").await.unwrap().unwrap()));
            assert!(same(&cache.get_multi(&["big"]).await.unwrap()[&b"big"[..]]));
            assert!(matches!(
                cache.append("big", "y").await,
                Err(Error::Codec(_))
            ));
            let options = LeaseOptions::new(Duration::from_secs(60));
            for _ in 0..2 {
                let made = cache.get_or_compute("made", options, || async {
                    Ok::<_, Infallible>(Bytes::from(value.clone()))
                });
                assert_eq!(made.await.unwrap(), value);
            }
            assert!(plain.get("made").await.unwrap().unwrap().value.len() < 1000);
            plain.delete("made").await.unwrap();
            let list = vec!["grüße".to_owned(); 1000];
            cache.set_json("list", &list, Expiry::Never).await.unwrap();
            assert_eq!(
                cache
                    .get_json::<Vec<String>>("list")
                    .await
                    .unwrap()
                    .unwrap(),
                list
            );
            assert_eq!(cache.get_json::<u8>("absent").await.unwrap(), None);
            let wrong = cache.get_json::<u8>("list").await;
            assert!(matches!(wrong, Err(Error::Codec(_))));
        }
    }
}

/// Runs a script that reads `ours`, compressed here, and stores `theirs`, compressed there; both are the same text.
async fn trades(convention: Convention, program: &str, flag: &str, script: &str, port: u16) {
    let codec = Codec::new(convention).with_compression(Compression::Zlib);
    let config = patient([format!("127.0.0.1:{port}")]).with_codec(codec);
    let cache = Client::connect(config).await.unwrap();
    let value = "a line that compresses well\n".repeat(1000);
    cache.set("ours", &value, Expiry::Never).await.unwrap();
    let ran = Command::new(program)
        .args([flag, script, &port.to_string()])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&ran.stderr);
    if ran.status.code() == Some(3) {
        skip::skip(&format!("a library is missing: {complaint}"));
        return;
    }
    assert!(ran.status.success(), "{program}: {complaint}");
    let theirs = cache.get("theirs").await.unwrap().unwrap();
    assert!(
        theirs.value == value,
        "{program}: {} bytes",
        theirs.value.len()
    );
    let plain = Client::connect(patient([format!("127.0.0.1:{port}")]))
        .await
        .unwrap();
    let stored = plain.get("theirs").await.unwrap().unwrap();
    assert!(
        stored.value.len() < value.len() / 2,
        "{program} compressed it"
    );
}

const PYTHON: &str = "\
import sys
try:
    import pylibmc
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
cache = pylibmc.Client(['127.0.0.1:' + sys.argv[1]])
value = b'a line that compresses well\\n' * 1000
assert cache.get('ours') == value, 'ours'
assert cache.set('theirs', value, min_compress_len=1000)
";

const PHP: &str = "
if (!class_exists('Memcached')) { fwrite(STDERR, 'no memcached'); exit(3); }
$cache = new Memcached();
$cache->addServer('127.0.0.1', (int)$argv[1]);
$cache->setOption(Memcached::OPT_COMPRESSION, true);
$cache->setOption(Memcached::OPT_COMPRESSION_TYPE, Memcached::COMPRESSION_ZLIB);
$value = str_repeat(\"a line that compresses well\\n\", 1000);
if ($cache->get('ours') !== $value) { fwrite(STDERR, 'ours'); exit(1); }
if (!$cache->set('theirs', $value)) { fwrite(STDERR, $cache->getResultMessage()); exit(1); }
";

const PERL: &str = "
eval { require Cache::Memcached; 1 } or do { print STDERR $@; exit 3 };
my $cache = Cache::Memcached->new({ servers => ['127.0.0.1:' . $ARGV[0]], compress_threshold => 1000 });
my $value = \"a line that compresses well\\n\" x 1000;
$cache->get('ours') eq $value or die 'ours';
$cache->set('theirs', $value) or die 'theirs';
";

#[tokio::test]
async fn other_languages_read_what_is_compressed_here_and_the_other_way_round() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let peers = [
        (Convention::Python, skip::python(), "-c", PYTHON),
        (Convention::Php, "php", "-r", PHP),
        (Convention::Perl, "perl", "-e", PERL),
    ];
    for (convention, program, flag, script) in peers {
        if skip::program(program).is_some() {
            trades(convention, program, flag, script, server.port).await;
        }
    }
}
