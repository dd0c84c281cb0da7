//! Any split of a byte stream gives the same replies: random streams of good, odd and broken requests, whole and in pieces.

use crate::testing::Bench;
use ibex_base::rng::Rng;
use ibex_memcached_proto::binary::Header;

const SEEDS: u64 = 256;

fn key(rng: &mut Rng) -> String {
    match rng.below(12) {
        0 => "k".repeat(250),
        1 => "k".repeat(251),
        n => format!("key{}", n % 4),
    }
}

fn text(rng: &mut Rng, out: &mut Vec<u8>) {
    let key = key(rng);
    let number = [
        "0",
        "1",
        "-1",
        "100",
        "4294967295",
        "18446744073709551616",
        "x",
        "",
    ][rng.index(8)];
    let size = [0, 1, 2, 10, 5000, 9000, 70_000][rng.index(7)];
    let noreply = if rng.chance(1, 6) { " noreply" } else { "" };
    let end = if rng.chance(1, 5) { "\n" } else { "\r\n" };
    let value = vec![b'a' + u8::try_from(rng.below(26)).unwrap(); size];
    let block = |line: String, out: &mut Vec<u8>| {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(end.as_bytes());
        out.extend_from_slice(&value);
        out.extend_from_slice(if size == 10 && number == "x" {
            b"xx"
        } else {
            b"\r\n"
        });
    };
    let line = match rng.below(26) {
        0..6 => {
            let verb = ["set", "add", "replace", "append", "prepend", "cas"][rng.index(6)];
            let cas = if verb == "cas" { " 3" } else { "" };
            return block(format!("{verb} {key} {number} 0 {size}{cas}{noreply}"), out);
        }
        6..9 => {
            let flags = [
                "",
                " T30",
                " c k",
                " MA",
                " ME N60",
                " I C2",
                " q",
                " b",
                " s O123 k",
            ][rng.index(9)];
            return block(format!("ms {key} {size}{flags}"), out);
        }
        9 => return block(format!("set {key} 0 0 {}", 2 << 20), out),
        10 | 11 => format!("get {key} key0 key1 key2"),
        12 => format!("gats {number} {key} key1"),
        13 => format!("mg {key} v c t f k O{number} N30"),
        14 => format!("mg {key} s q R5"),
        15 => format!("md {key} q I T{number}"),
        16 => format!("ma {key} N0 J5 v D{number}"),
        17 => format!("incr {key} {number}{noreply}"),
        18 => format!("delete {key}{noreply}"),
        19 => format!("touch {key} {number}{noreply}"),
        20 => format!("verbosity {number}"),
        21 => ["mn", "version", "", "nonsense", "flush_all", "slabs x"][rng.index(6)].to_owned(),
        22 => format!("me {key}"),
        23 => format!("get {}", "key1 ".repeat(600)),
        24 => ["quit", "GET / HTTP/1.1", "lru_crawler x"][rng.index(3)].to_owned(),
        _ => {
            let junk: Vec<u8> = (0..rng.below(40))
                .map(|_| u8::try_from(rng.below(256)).unwrap())
                .collect();
            out.extend_from_slice(&junk);
            String::new()
        }
    };
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(end.as_bytes());
}

fn packet(rng: &mut Rng, out: &mut Vec<u8>) {
    // Not the statistics, which change by themselves.
    let opcode = Some(u8::try_from(rng.below(0x28)).unwrap()).filter(|opcode| *opcode != 0x10);
    let opcode = opcode.unwrap_or(0x0a);
    let key = if rng.chance(1, 8) {
        String::new()
    } else {
        key(rng)
    };
    let usual = [0, 8, 8, 8, 0, 20, 20, 0][usize::from(opcode).min(7)];
    let extras = if rng.chance(1, 10) { 4 } else { usual };
    let value = vec![b'1'; [0, 0, 1, 30, 9000][rng.index(5)]];
    let header = Header {
        opcode,
        key_bytes: u16::try_from(key.len()).unwrap(),
        extras_bytes: extras,
        body_bytes: u32::try_from(usize::from(extras) + key.len() + value.len()).unwrap(),
        opaque: u32::from(opcode) << 8,
        cas: rng.below(3),
    };
    header.write(out);
    out.extend(std::iter::repeat_n(0, usize::from(extras)));
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&value);
    if rng.chance(1, 60) {
        out.push(b'x');
    }
}

fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let is_text = rng.chance(3, 4);
    for _ in 0..rng.below(40) {
        if is_text {
            text(rng, &mut out);
        } else {
            packet(rng, &mut out);
        }
    }
    out
}

/// The replies, and whether the connection was closed.
fn run(bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<u8>, bool) {
    let mut bench = Bench::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        bench.feed(now);
        rest = later;
    }
    (bench.replies, bench.is_closed)
}

#[test]
fn any_split_gives_the_same_replies() {
    let (mut answered, mut closed) = (0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let bytes = stream(&mut rng);
        let whole = run(&bytes, || usize::MAX);
        answered += usize::from(!whole.0.is_empty());
        closed += usize::from(whole.1);
        for most in [1, 7, 100, 5000] {
            // Small pieces take long with large values, and nothing new happens inside them.
            if bytes.len() > most * 4000 {
                continue;
            }
            let pieces = run(&bytes, || 1 + rng.index(most));
            if pieces == whole {
                continue;
            }
            let same = pieces
                .0
                .iter()
                .zip(&whole.0)
                .take_while(|(piece, whole)| piece == whole);
            let from = same.count().saturating_sub(60);
            let show = |(replies, is_closed): &(Vec<u8>, bool)| {
                let end = replies.len().min(from + 200);
                format!("{} closed={is_closed}", replies[from..end].escape_ascii())
            };
            let (pieces, whole) = (show(&pieces), show(&whole));
            panic!("seed {seed}, pieces up to {most}\npieces: {pieces}\nwhole:  {whole}");
        }
    }
    assert!(
        answered > 200 && closed > 20,
        "{answered} {closed}: the streams are worth nothing"
    );
}
