//! Resident memory per item, and how many items a limit holds.

use crate::Options;
use crate::cpu::fill;
use crate::data::Rows;
use crate::servers::start_all;

/// Items stored where the limit is out of reach.
const ITEMS: usize = 400_000;

pub(crate) fn run(options: &Options) -> bool {
    println!("\nmemory, keys of 10 bytes");
    let mut rows = Rows::new(&["server", "what", "items", "RSS", "RSS per item"]);
    for bytes in [10, 100, 1000] {
        for server in start_all(1024, &[]) {
            let before = server.rss();
            fill(&server, bytes, ITEMS);
            let rss = server.rss() - before;
            rows.push(vec![
                server.name.to_owned(),
                format!("{bytes} B"),
                ITEMS.to_string(),
                rss.to_string(),
                format!("{:.1}", rss as f64 / ITEMS as f64),
            ]);
        }
    }
    for server in start_all(64, &[]) {
        fill(&server, 100, 900_000);
        let (items, rss) = (server.stat("curr_items"), server.rss());
        rows.push(vec![
            server.name.to_owned(),
            "-m 64, 100 B".to_owned(),
            items.to_string(),
            rss.to_string(),
            format!("{:.1}", rss as f64 / items as f64),
        ]);
    }
    rows.keep(options, "memory");
    true
}
