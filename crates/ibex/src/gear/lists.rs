//! Answers of a job server as JSON: what the columns of each list are called.
//!
//! Only known lists have names; whoever adds a list to the server adds its columns here.

use serde_json::{Map, Value, json};

/// Columns, those that begin with `#` numbers.
const COLUMNS: &[(&str, &[&str])] = &[
    ("status", &["function", "#total", "#running", "#workers"]),
    (
        "prioritystatus",
        &["function", "#high", "#normal", "#low", "#workers"],
    ),
    ("show jobs", &["handle", "#retries", "#ignored", "#queued"]),
    ("show unique jobs", &["unique"]),
    (
        "show dead",
        &["handle", "function", "unique", "#attempts", "reason"],
    ),
    (
        "show schedules",
        &["handle", "function", "unique", "fields", "#next"],
    ),
];

/// One answer as an object: `command`, and `rows`, `value`, `text` or `error`.
#[must_use]
pub fn object(command: &str, answer: &Result<String, String>) -> Value {
    let text = match answer {
        Err(refusal) => return json!({ "command": command, "error": refusal }),
        Ok(text) => text,
    };
    let Some(list) = text
        .strip_suffix(".\n")
        .or_else(|| text.strip_suffix(".\r\n"))
    else {
        return json!({ "command": command, "value": text.trim_end() });
    };
    let lines = list.lines();
    let columns = COLUMNS.iter().find(|(known, _)| *known == command);
    match (command, columns) {
        ("workers", _) => {
            json!({ "command": command, "rows": lines.map(worker).collect::<Vec<_>>() })
        }
        ("show functions", _) => json!({ "command": command, "rows": with_header(lines) }),
        (_, Some((_, columns))) => {
            let rows: Vec<Value> = lines.map(|line| row(columns, line)).collect();
            json!({ "command": command, "rows": rows })
        }
        _ if command.starts_with("show job ") => {
            let pairs = lines.filter_map(|line| line.split_once(": "));
            let job: Map<_, _> = pairs
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect();
            json!({ "command": command, "rows": [job] })
        }
        _ => json!({ "command": command, "text": list }),
    }
}

fn row(columns: &[&str], line: &str) -> Value {
    let cells = columns.iter().zip(line.splitn(columns.len(), '\t'));
    let cells = cells.map(|(column, cell)| match column.strip_prefix('#') {
        Some(name) => (name.to_owned(), number(cell)),
        None => ((*column).to_owned(), cell.into()),
    });
    Value::Object(cells.collect())
}

fn number(cell: &str) -> Value {
    cell.parse::<u64>().map_or_else(|_| cell.into(), Into::into)
}

/// The first line names the columns.
fn with_header<'a>(mut lines: impl Iterator<Item = &'a str>) -> Vec<Value> {
    let columns: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    lines
        .map(|line| {
            let cells = columns.iter().zip(line.split('\t'));
            let cells = cells.map(|(column, cell)| {
                let is_text = matches!(*column, "function" | "maxqueue" | "rate");
                let value = if is_text { cell.into() } else { number(cell) };
                ((*column).to_owned(), value)
            });
            Value::Object(cells.collect())
        })
        .collect()
}

/// `fd ip id : function function`.
fn worker(line: &str) -> Value {
    // An address of version 6 may begin with a colon: the one that is meant stands alone.
    let end = line.strip_suffix(" :").map(|who| (who, ""));
    let (who, functions) = end.or_else(|| line.split_once(" : ")).unwrap_or((line, ""));
    let mut words = who.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    json!({
        "fd": number(word()),
        "address": word(),
        "id": word(),
        "functions": functions.split_whitespace().collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_objects() {
        for (command, answer, expected) in [
            (
                "status",
                "7\t1\t0\t2\n.\n",
                json!({"command": "status", "rows": [{"function": "7", "total": 1, "running": 0, "workers": 2}]}),
            ),
            (
                "workers",
                "5 127.0.0.1 - :\n6 ::1 w 1 : f g\n.\n",
                json!({"command": "workers", "rows": [
                    {"fd": 5, "address": "127.0.0.1", "id": "-", "functions": []},
                    {"fd": 6, "address": "::1", "id": "w 1", "functions": ["f", "g"]},
                ]}),
            ),
            (
                "show functions",
                "function\ttotal\trate\nf\t3\t0\n.\n",
                json!({"command": "show functions", "rows": [{"function": "f", "total": 3, "rate": "0"}]}),
            ),
            (
                "show job H:a:1",
                "handle: H:a:1\nstate: running\n.\n",
                json!({"command": "show job H:a:1", "rows": [{"handle": "H:a:1", "state": "running"}]}),
            ),
            (
                "version",
                "1.1.20\n",
                json!({"command": "version", "value": "1.1.20"}),
            ),
            (
                "show unique jobs",
                "\nk\n.\n",
                json!({"command": "show unique jobs", "rows": [{"unique": ""}, {"unique": "k"}]}),
            ),
            (
                "metrics",
                "a 1\n.\n",
                json!({"command": "metrics", "text": "a 1\n"}),
            ),
        ] {
            assert_eq!(object(command, &Ok(answer.to_owned())), expected);
        }
        assert_eq!(
            object("cancel job x", &Err("UNKNOWN_JOB".to_owned())),
            json!({"command": "cancel job x", "error": "UNKNOWN_JOB"})
        );
    }
}
