//! From OpenMetrics text to the classic format 0.0.4, line by line.
//!
//! Owns the differences (spec/ops.md 4.3): a counter family `x` is named `x_total` in HELP and TYPE, an info family is a
//! gauge `x_info`, `# UNIT` and `# EOF` go, exemplars go. It parses no values.

use std::collections::BTreeMap;

/// The same metrics in the classic text format.
pub(crate) fn classic(openmetrics: &str) -> String {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    for line in openmetrics.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            kinds.insert(name, kind);
        }
    }
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if let Some((name, text)) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
        {
            // OpenMetrics escapes quotes in HELP, the classic form does not know that escape.
            push_line(
                &mut out,
                &[
                    "# HELP ",
                    &family(name, &kinds),
                    " ",
                    &text.replace("\\\"", "\""),
                ],
            );
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let kind = match kind {
                "info" | "stateset" => "gauge",
                "unknown" => "untyped",
                "gaugehistogram" => "histogram",
                other => other,
            };
            push_line(&mut out, &["# TYPE ", &family(name, &kinds), " ", kind]);
        } else {
            push_line(&mut out, &[without_exemplar(line)]);
        }
    }
    out
}

/// A sample without its exemplar, which begins with ` # ` behind the labels; inside a label's quotes that is only text.
fn without_exemplar(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line.get(..index).unwrap_or(line).trim_end(),
            _ => {}
        }
    }
    line
}

fn family(name: &str, kinds: &BTreeMap<&str, &str>) -> String {
    match kinds.get(name).copied() {
        Some("counter") => format!("{name}_total"),
        Some("info") => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

fn push_line(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_infos_units_and_exemplars() {
        let text = "# HELP a Jobs \\\"quoted\\\".\n# TYPE a counter\na_total{x=\"1 # {\"} 2 # {id=\"7\"} 1\n\
                    # HELP b Build.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c_seconds Time.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 1.5\n# EOF\n";
        let expected = "# HELP a_total Jobs \"quoted\".\n# TYPE a_total counter\na_total{x=\"1 # {\"} 2\n\
                        # HELP b_info Build.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
                        # HELP c_seconds Time.\n# TYPE c_seconds gauge\nc_seconds 1.5\n";
        assert_eq!(classic(text), expected);
    }

    #[test]
    fn histograms_keep_their_names() {
        let text = "# HELP h H.\n# TYPE h histogram\nh_sum 1.0\nh_count 1\nh_bucket{le=\"+Inf\"} 1\n# EOF\n";
        assert_eq!(classic(text), text.replace("# EOF\n", ""));
    }
}
