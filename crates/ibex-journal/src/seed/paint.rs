//! Userpics from numbers: a symmetrical pattern in two colours.
//!
//! Apart because it is the only drawing here. The same number gives the same picture.

use crate::error::{Error, Result};
use ibex_base::rng::Rng;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

/// Cells in a row; the right half mirrors the left.
const CELLS: u32 = 7;
/// Pixels of a cell.
const CELL: u32 = 16;
/// Light grounds and the colours drawn on them.
const GROUNDS: [[u8; 3]; 4] = [
    [244, 238, 226],
    [228, 236, 238],
    [238, 230, 238],
    [232, 240, 226],
];
const COLOURS: [[u8; 3]; 6] = [
    [31, 95, 91],
    [122, 68, 40],
    [86, 62, 122],
    [150, 52, 82],
    [54, 92, 140],
    [92, 110, 40],
];

/// A PNG of 112 by 112 pixels.
pub(crate) fn userpic(seed: u64) -> Result<Vec<u8>> {
    let mut rng = Rng::new(seed ^ 0x7069_6374);
    let ground = Rgb(rng.pick(&GROUNDS).copied().unwrap_or([255; 3]));
    let colour = Rgb(rng.pick(&COLOURS).copied().unwrap_or([0; 3]));
    let half = CELLS.div_ceil(2);
    let cells: Vec<bool> = (0..half * CELLS).map(|_| rng.chance(1, 2)).collect();
    let picture = RgbImage::from_fn(CELLS * CELL, CELLS * CELL, |x, y| {
        let (column, row) = (x / CELL, y / CELL);
        let column = column.min(CELLS - 1 - column);
        let is_drawn = cells
            .get(usize::try_from(row * half + column).unwrap_or(0))
            .copied()
            .unwrap_or(false);
        if is_drawn { colour } else { ground }
    });
    let mut out = Vec::new();
    DynamicImage::from(picture)
        .write_to(&mut Cursor::new(&mut out), ImageFormat::Png)
        .map_err(|error| Error::Bug(error.to_string()))?;
    Ok(out)
}
