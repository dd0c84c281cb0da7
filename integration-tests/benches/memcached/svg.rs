//! Two kinds of plots as SVG text, readable in a bright and a dark page: groups of bars, and lines.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 90.0;
/// One colour for each server, in the order of the columns.
const COLOURS: [&str; 3] = ["#0b7285", "#c2255c", "#e8890c"];
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}.g{stroke:#bbb;stroke-width:.5}.b{fill:#fff}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}.b{fill:#181a1b}}";

/// What both kinds have.
pub(crate) struct Frame<'a> {
    pub(crate) title: &'a str,
    pub(crate) below: &'a str,
    pub(crate) beside: &'a str,
    pub(crate) series: &'a [&'a str],
}

/// How values lie along the upright axis.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Axis {
    /// From 0.
    Linear { top: f64 },
    /// By powers of ten, as many as the values need.
    Log,
}

/// An axis with its ends.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Scale {
    fn linear(top: f64) -> Self {
        Self {
            low: 0.0,
            high: top,
            is_log: false,
        }
    }

    fn log(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::MAX, f64::min).max(1e-3);
        let greatest = values.fold(least, f64::max);
        Self {
            low: 10_f64.powf(least.log10().floor()),
            high: 10_f64.powf(greatest.log10().ceil()),
            is_log: true,
        }
    }

    fn y(self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.is_log {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            value / self.high
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn lines(self) -> Vec<f64> {
        if self.is_log {
            let decades = (self.high / self.low).log10().round() as i32;
            (0..=decades).map(|n| self.low * 10_f64.powi(n)).collect()
        } else {
            (0..=5).map(|n| self.high * f64::from(n) / 5.0).collect()
        }
    }
}

/// The next round number above: 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|candidate| *candidate >= value)
        .unwrap_or(value)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Frame<'_> {
    /// The part around the data, with lines across.
    fn begin(&self, scale: Scale) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"b\" width=\"100%\" height=\"100%\"/>\n<text class=\"t\" x=\"{LEFT}\" y=\"20\">{0}</text>\n",
            self.title
        );
        for value in scale.lines() {
            let y = scale.y(value);
            writeln!(
                svg,
                "<line class=\"g\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                number(value)
            )
            .unwrap();
        }
        let (middle, x) = (TOP + (HEIGHT - TOP - BOTTOM) / 2.0, 16.0);
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {middle})\">{}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            self.beside,
            LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
            HEIGHT - BOTTOM + 42.0,
            self.below
        )
        .unwrap();
        for (n, name) in self.series.iter().enumerate() {
            let x = LEFT + n as f64 * 200.0;
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"39\">{name}</text>",
                COLOURS[n % COLOURS.len()],
                x + 16.0
            )
            .unwrap();
        }
        svg
    }

    /// Bars: for each group its name and a value for each series.
    pub(crate) fn bars(&self, groups: &[(String, Vec<f64>)]) -> String {
        let values = groups.iter().flat_map(|(_, values)| values.iter().copied());
        let greatest = values.fold(0.0, f64::max);
        let scale = Scale::linear(round_up(greatest));
        let mut svg = self.begin(scale);
        let wide = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
        let bar = wide * 0.8 / self.series.len() as f64;
        for (group, (name, values)) in groups.iter().enumerate() {
            let start = LEFT + wide * group as f64;
            for (n, value) in values.iter().enumerate() {
                let (x, y) = (start + wide * 0.1 + bar * n as f64, scale.y(*value));
                writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"font-size:9px\">{}</text>",
                    bar * 0.94,
                    HEIGHT - BOTTOM - y,
                    COLOURS[n % COLOURS.len()],
                    x + bar * 0.47,
                    y - 3.0,
                    number(*value)
                )
                .unwrap();
            }
            let (x, y) = (start + wide / 2.0, HEIGHT - BOTTOM + 14.0);
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" transform=\"rotate(-25 {x:.1} {y:.1})\">{name}</text>"
            )
            .unwrap();
        }
        svg + "</svg>\n"
    }

    /// Lines through points, for each series its own.
    pub(crate) fn lines(&self, series: &[Vec<(f64, f64)>], axis: Axis) -> String {
        let points = || series.iter().flatten();
        let scale = match axis {
            Axis::Linear { top } => Scale::linear(top),
            Axis::Log => Scale::log(points().map(|point| point.1)),
        };
        let far = points().map(|point| point.0).fold(0.0, f64::max);
        let mut svg = self.begin(scale);
        let x = |value: f64| LEFT + value / far * (WIDTH - LEFT - RIGHT);
        for tick in 0..=6 {
            let value = far * f64::from(tick) / 6.0;
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(value),
                HEIGHT - BOTTOM + 18.0,
                number(value)
            )
            .unwrap();
        }
        for (n, points) in series.iter().enumerate() {
            let path: Vec<String> = points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), scale.y(point.1)))
                .collect();
            writeln!(
                svg,
                "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{}\" points=\"{}\"/>",
                COLOURS[n % COLOURS.len()],
                path.join(" ")
            )
            .unwrap();
        }
        svg + "</svg>\n"
    }
}
