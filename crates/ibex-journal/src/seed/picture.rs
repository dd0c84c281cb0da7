//! Pictures of the demonstration, drawn from a seed: user pictures and landscapes. No file ships with the program.

use std::io::Cursor;

use ibex_base::rng::Rng;
use image::{ImageFormat, Rgb, RgbImage};

/// Cells in a user picture's row and column; the right half mirrors the left one.
const CELLS: u32 = 5;
/// Pixels of one cell: five of them make a picture of 100×100.
const CELL_PIXELS: u32 = 20;

/// A user picture as PNG, 100×100 pixels: a symmetric pattern in two colours.
///
/// # Panics
/// Never: encoding into memory does not fail.
#[must_use]
pub fn avatar(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let hue = rng.fraction();
    let (paper, ink) = (color(hue, 0.25, 0.94), color(hue + 0.05, 0.65, 0.55));
    let half = CELLS.div_ceil(2);
    let cells: Vec<bool> = (0..CELLS * half).map(|_| rng.chance(1, 2)).collect();
    let side = CELLS * CELL_PIXELS;
    let picture = RgbImage::from_fn(side, side, |x, y| {
        let (column, row) = (x / CELL_PIXELS, y / CELL_PIXELS);
        let column = column.min(CELLS - 1 - column);
        let index = usize::try_from(row * half + column).unwrap_or(0);
        if cells.get(index).copied().unwrap_or(false) {
            ink
        } else {
            paper
        }
    });
    encode(&picture, ImageFormat::Png)
}

/// A landscape as JPEG: hills in front of each other under a sky, all in shades of one evening.
///
/// # Panics
/// Never: encoding into memory does not fail.
#[must_use]
pub fn landscape(seed: u64, width: u32, height: u32) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let hue = rng.fraction();
    let hills: Vec<Hill> = (0..5).map(|depth| Hill::new(&mut rng, depth)).collect();
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (
            f64::from(x) / f64::from(width),
            f64::from(y) / f64::from(height),
        );
        let covered = hills.iter().rposition(|hill| down > hill.skyline(across));
        match covered {
            None => color(hue + 0.1 * down, 0.35 + 0.2 * down, 0.95 - 0.2 * down),
            Some(depth) => {
                let depth = [0.0, 1.0, 2.0, 3.0, 4.0][depth];
                color(
                    hue + 0.3 + 0.03 * depth,
                    0.3 + 0.08 * depth,
                    0.75 - 0.13 * depth,
                )
            }
        }
    });
    encode(&picture, ImageFormat::Jpeg)
}

/// A skyline made of two waves.
struct Hill {
    base: f64,
    waves: [(f64, f64, f64); 2],
}

impl Hill {
    fn new(rng: &mut Rng, depth: u32) -> Self {
        let mut wave = |scale: f64| {
            (
                0.06 * scale * rng.fraction(),
                (2.0 + 6.0 * rng.fraction()) / scale,
                rng.fraction(),
            )
        };
        Self {
            base: 0.4 + 0.11 * f64::from(depth),
            waves: [wave(1.0), wave(0.5)],
        }
    }

    /// How far down the hill begins, as a share of the height.
    fn skyline(&self, across: f64) -> f64 {
        let wave = |&(height, frequency, phase): &(f64, f64, f64)| {
            height * (std::f64::consts::TAU * (across * frequency + phase)).sin()
        };
        self.base + self.waves.iter().map(wave).sum::<f64>()
    }
}

/// A colour from hue, saturation and value, each in 0–1; the hue wraps around.
fn color(hue: f64, saturation: f64, value: f64) -> Rgb<u8> {
    let channel = |offset: f64| {
        let position = (offset + hue * 6.0).rem_euclid(6.0);
        let level = position.min(4.0 - position).clamp(0.0, 1.0);
        let light = value - value * saturation * level;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a byte"
        )]
        let byte = (light * 255.0).round().clamp(0.0, 255.0) as u8;
        byte
    };
    Rgb([channel(5.0), channel(3.0), channel(1.0)])
}

fn encode(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, format)
        .expect("memory takes any number of bytes");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_what_they_say_and_repeat() {
        let png = avatar(1);
        assert_eq!(image::guess_format(&png).unwrap(), ImageFormat::Png);
        let picture = image::load_from_memory(&png).unwrap();
        assert_eq!((picture.width(), picture.height()), (100, 100));
        assert_eq!(png, avatar(1));
        assert_ne!(png, avatar(2));
        let jpeg = landscape(3, 320, 200);
        assert_eq!(image::guess_format(&jpeg).unwrap(), ImageFormat::Jpeg);
        assert_eq!(jpeg, landscape(3, 320, 200));
    }

    #[test]
    fn primary_hues_are_primary_colours() {
        for (hue, expected) in [
            (0.0, [255, 0, 0]),
            (1.0 / 3.0, [0, 255, 0]),
            (2.0 / 3.0, [0, 0, 255]),
        ] {
            assert_eq!(color(hue, 1.0, 1.0), Rgb(expected));
        }
    }
}
