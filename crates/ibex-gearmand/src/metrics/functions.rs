//! Numbers by function, the label of which is capped, and the times jobs take.

use std::collections::BTreeMap;
use std::fmt;

use ibex_gearman_core::{Counters, FunctionView, Histogram};
use ibex_kit::LabelCap;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Sums of one function's label.
#[derive(Default)]
struct FunctionSum {
    waiting: u64,
    scheduled: u64,
    running: u64,
    workers: u64,
    oldest_us: u64,
}

pub(super) fn write(
    encoder: &mut DescriptorEncoder<'_>,
    functions: &[FunctionView],
    cap: &LabelCap,
) -> fmt::Result {
    let mut sums: BTreeMap<String, FunctionSum> = BTreeMap::new();
    for f in functions {
        let sum = sums.entry(cap.label(&f.name)).or_default();
        sum.waiting += u64::from(f.waiting.iter().sum::<u32>() + f.committing);
        sum.scheduled += u64::from(f.scheduled);
        sum.running += u64::from(f.running);
        sum.workers += u64::from(f.workers);
        sum.oldest_us = sum.oldest_us.max(f.oldest_us);
    }
    let mut jobs = encoder.encode_descriptor(
        "gearmand_function_jobs",
        "Jobs of a function, by state",
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        for (state, value) in [
            ("waiting", sum.waiting),
            ("scheduled", sum.scheduled),
            ("running", sum.running),
        ] {
            let labels = [("function", function.as_str()), ("state", state)];
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
                .encode(jobs.encode_family(&labels)?)?;
        }
    }
    let mut workers = encoder.encode_descriptor(
        "gearmand_function_workers",
        "Connections that can do a function",
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        let value = ConstGauge::new(i64::try_from(sum.workers).unwrap_or(i64::MAX));
        value.encode(workers.encode_family(&[("function", function.as_str())])?)?;
    }
    let help = "Age of the longest waiting job of a function";
    let mut oldest = encoder.encode_descriptor(
        "gearmand_function_oldest_seconds",
        help,
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        let seconds = std::time::Duration::from_micros(sum.oldest_us).as_secs_f64();
        ConstGauge::new(seconds)
            .encode(oldest.encode_family(&[("function", function.as_str())])?)?;
    }
    Ok(())
}

pub(super) fn write_times(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let times = [
        (
            "gearmand_job_wait_seconds",
            "From submission or return to assignment",
            &counters.wait,
        ),
        (
            "gearmand_job_run_seconds",
            "From assignment to the end",
            &counters.run,
        ),
    ];
    for (name, help, histogram) in times {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let buckets = buckets(histogram);
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = std::time::Duration::from_micros(histogram.sum_us).as_secs_f64();
        family.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// Upper bounds in seconds; the last one is open.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let last = histogram.buckets.len() - 1;
    let bound = |power: usize| {
        if power == last {
            f64::MAX
        } else {
            std::time::Duration::from_micros(1 << power).as_secs_f64()
        }
    };
    histogram
        .buckets
        .iter()
        .enumerate()
        .map(|(power, count)| (bound(power), *count))
        .collect()
}
