//! Pictures: what a file really is, and scaling. Pure functions of bytes; also the Gearman function `image_resize`.
//!
//! Apart because it runs in two places, the worker and, when no worker answers, the web process. Re-encoding drops all metadata.
//! The number of pixels is checked from the header before anything is decoded.

use crate::error::{Error, Result};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Largest picture that is decoded: 40 megapixels, 160 MB as RGBA.
const PIXELS_MAX: u64 = 40_000_000;
/// Memory the decoder may take.
const DECODE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Quality of photographs.
const JPEG_QUALITY: u8 = 86;

/// How a picture is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Inside the box, never enlarged.
    Inside,
    /// Filling the box, the middle kept.
    Cover,
}

/// What is asked of `image_resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Order {
    /// Width of the box, pixels.
    pub width: u32,
    /// Height of the box, pixels.
    pub height: u32,
    /// How it is fitted.
    pub fit: Fit,
}

/// A finished picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// `image/png` or `image/jpeg`.
    pub mime: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The file.
    pub bytes: Vec<u8>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Head {
    mime: String,
    width: u32,
    height: u32,
}

/// Scales a PNG, JPEG, GIF or WebP file.
///
/// # Errors
/// [`Error::Invalid`] for anything that is none of these, damaged, or too large.
pub fn resize(source: &[u8], order: Order) -> Result<Picture> {
    let refuse =
        |_| Error::invalid("This is not a PNG, JPEG, GIF or WebP picture, or it is damaged.");
    let reader = || ImageReader::new(Cursor::new(source)).with_guessed_format();
    let format = reader()
        .map_err(|_| refuse(()))?
        .format()
        .ok_or_else(|| refuse(()))?;
    if !matches!(
        format,
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP
    ) {
        return Err(refuse(()));
    }
    let (width, height) = reader()
        .map_err(|_| refuse(()))?
        .into_dimensions()
        .map_err(|_| refuse(()))?;
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Error::invalid(
            "This picture has more than 40 million pixels.",
        ));
    }
    let mut reader = reader().map_err(|_| refuse(()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let picture = reader.decode().map_err(|_| refuse(()))?;
    let filter = image::imageops::FilterType::CatmullRom;
    let scaled = match order.fit {
        Fit::Inside if width <= order.width && height <= order.height => picture,
        Fit::Inside => picture.resize(order.width, order.height, filter),
        Fit::Cover => picture.resize_to_fill(order.width, order.height, filter),
    };
    encode(&scaled, format == ImageFormat::Jpeg)
}

/// Photographs stay JPEG; everything else becomes PNG, which keeps transparency.
fn encode(picture: &DynamicImage, is_photograph: bool) -> Result<Picture> {
    let mut bytes = Vec::new();
    let mime = if is_photograph {
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        picture
            .to_rgb8()
            .write_with_encoder(encoder)
            .map_err(|error| Error::Bug(error.to_string()))?;
        "image/jpeg"
    } else {
        picture
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .map_err(|error| Error::Bug(error.to_string()))?;
        "image/png"
    };
    Ok(Picture {
        mime: mime.to_owned(),
        width: picture.width(),
        height: picture.height(),
        bytes,
    })
}

/// The workload of `image_resize`: the order as one line of JSON, then the file.
#[must_use]
pub fn workload(order: Order, source: &[u8]) -> Vec<u8> {
    let mut out = serde_json::to_vec(&order).unwrap_or_default();
    out.push(b'\n');
    out.extend_from_slice(source);
    out
}

/// The function `image_resize`: workload in, the picture's head as one line of JSON and its bytes out.
///
/// # Errors
/// [`Error::Invalid`].
pub fn run(workload: &[u8]) -> Result<Vec<u8>> {
    let (head, source) = split(workload)?;
    let order: Order =
        serde_json::from_slice(head).map_err(|error| Error::invalid(format!("order: {error}")))?;
    let picture = resize(source, order)?;
    let mut out = serde_json::to_vec(&Head {
        mime: picture.mime,
        width: picture.width,
        height: picture.height,
    })
    .map_err(|error| Error::Bug(error.to_string()))?;
    out.push(b'\n');
    out.extend_from_slice(&picture.bytes);
    Ok(out)
}

/// Reads what [`run`] returned.
///
/// # Errors
/// [`Error::Invalid`] for anything else.
pub fn result(bytes: &[u8]) -> Result<Picture> {
    let (head, content) = split(bytes)?;
    let head: Head =
        serde_json::from_slice(head).map_err(|error| Error::invalid(format!("result: {error}")))?;
    Ok(Picture {
        mime: head.mime,
        width: head.width,
        height: head.height,
        bytes: content.to_vec(),
    })
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| Error::invalid("no line feed behind the head"))?;
    let (head, rest) = bytes.split_at(end);
    Ok((head, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let picture = DynamicImage::new_rgb8(width, height);
        encode(&picture, false).unwrap().bytes
    }

    #[test]
    fn a_picture_is_fitted_and_never_enlarged() {
        let cover = resize(
            &png(300, 200),
            Order {
                width: 100,
                height: 100,
                fit: Fit::Cover,
            },
        )
        .unwrap();
        assert_eq!(
            (cover.width, cover.height, cover.mime.as_str()),
            (100, 100, "image/png")
        );
        let inside = resize(
            &png(300, 200),
            Order {
                width: 150,
                height: 150,
                fit: Fit::Inside,
            },
        )
        .unwrap();
        assert_eq!((inside.width, inside.height), (150, 100));
        let small = resize(
            &png(30, 20),
            Order {
                width: 150,
                height: 150,
                fit: Fit::Inside,
            },
        )
        .unwrap();
        assert_eq!((small.width, small.height), (30, 20));
    }

    #[test]
    fn the_job_function_gives_what_the_local_one_gives() {
        let order = Order {
            width: 10,
            height: 10,
            fit: Fit::Cover,
        };
        let source = png(40, 20);
        assert_eq!(
            result(&run(&workload(order, &source)).unwrap()).unwrap(),
            resize(&source, order).unwrap()
        );
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let order = Order {
            width: 10,
            height: 10,
            fit: Fit::Cover,
        };
        for bytes in [&b""[..], b"GIF89a", b"<svg/>", &png(10, 10)[..30]] {
            assert!(matches!(resize(bytes, order), Err(Error::Invalid(_))));
        }
    }
}
