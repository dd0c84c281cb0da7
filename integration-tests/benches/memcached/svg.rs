//! Two kinds of plots as SVG text, readable in a bright and a dark page: groups of bars, and lines.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 90.0;
/// One colour for each server, in the order of the columns.
const COLOURS: [&str; 2] = ["#0b7285", "#c2255c"];
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}.g{stroke:#bbb;stroke-width:.5}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}.b{fill:#181a1b}}.b{fill:#fff}\
    @media(prefers-color-scheme:dark){.b{fill:#181a1b}}";

/// What both kinds have.
pub(crate) struct Frame<'a> {
    pub(crate) title: &'a str,
    pub(crate) below: &'a str,
    pub(crate) beside: &'a str,
    pub(crate) series: &'a [&'a str],
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
    /// The part around the data, with five lines from 0 to `top`.
    fn begin(&self, top: f64) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"b\" width=\"100%\" height=\"100%\"/>\n<text class=\"t\" x=\"{LEFT}\" y=\"20\">{0}</text>\n",
            self.title
        );
        for line in 0..=5 {
            let value = top * f64::from(line) / 5.0;
            let y = self.y(value, top);
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
            HEIGHT - 8.0,
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

    fn y(&self, value: f64, top: f64) -> f64 {
        HEIGHT - BOTTOM - value.min(top) / top * (HEIGHT - TOP - BOTTOM)
    }

    /// Bars: for each group its name and a value for each series. A value above `cut`, if there is one, is cut off there and written out.
    pub(crate) fn bars(&self, groups: &[(String, Vec<f64>)], cut: Option<f64>) -> String {
        let values = groups.iter().flat_map(|(_, values)| values.iter().copied());
        let greatest = values.fold(0.0, f64::max);
        let top = round_up(cut.map_or(greatest, |cut| greatest.min(cut)));
        let mut svg = self.begin(top);
        let wide = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
        let bar = wide * 0.8 / self.series.len() as f64;
        for (group, (name, values)) in groups.iter().enumerate() {
            let start = LEFT + wide * group as f64;
            for (n, value) in values.iter().enumerate() {
                let (x, y) = (start + wide * 0.1 + bar * n as f64, self.y(*value, top));
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
    pub(crate) fn lines(&self, series: &[Vec<(f64, f64)>], top: Option<f64>) -> String {
        let points = || series.iter().flatten();
        let greatest = points().map(|point| point.1).fold(0.0, f64::max);
        let top = top.unwrap_or_else(|| round_up(greatest));
        let far = points().map(|point| point.0).fold(0.0, f64::max);
        let mut svg = self.begin(top);
        let x = |value: f64| LEFT + value / far * (WIDTH - LEFT - RIGHT);
        for tick in 0..=6 {
            let value = far * f64::from(tick) / 6.0;
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.0}</text>",
                x(value),
                HEIGHT - BOTTOM + 18.0
            )
            .unwrap();
        }
        for (n, points) in series.iter().enumerate() {
            let path: Vec<String> = points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), self.y(point.1, top)))
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
