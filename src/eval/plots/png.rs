//! A plot as PNG, drawn by `resvg` with the bundled font.

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use super::Plot;
use crate::{Error, Result};

/// Inter (SIL Open Font License 1.1, `data/fonts/OFL.txt`), its Latin letters.
const FONTS: [&[u8]; 2] = [
    include_bytes!("../../../data/fonts/Inter-Regular.ttf"),
    include_bytes!("../../../data/fonts/Inter-SemiBold.ttf"),
];
/// The longest side of an image, pixels.
const MAX_SIDE: f32 = 16384.0;

impl Plot {
    /// The plot as PNG, `scale` pixels for each of the SVG's; 2 is sharp on most screens. Letters
    /// beyond Latin come out as boxes: the bundled font does not have them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the SVG is not one, or the image would have no pixels or a side of
    /// more than 16384.
    pub fn png(&self, scale: f32) -> Result<Vec<u8>> {
        let failed = |problem: String| Error::invalid(format!("{}.png: {problem}", self.name));
        let mut fonts = usvg::fontdb::Database::new();
        for font in FONTS {
            fonts.load_font_data(font.to_vec());
        }
        let options = usvg::Options {
            font_family: "Inter".into(),
            fontdb: Arc::new(fonts),
            ..usvg::Options::default()
        };
        let tree =
            usvg::Tree::from_str(&self.svg, &options).map_err(|error| failed(error.to_string()))?;
        let sides = [tree.size().width(), tree.size().height()].map(|side| (side * scale).ceil());
        if sides.iter().any(|side| !(1.0..=MAX_SIDE).contains(side)) {
            return Err(failed(format!("{} by {} pixels can't be drawn", sides[0], sides[1])));
        }
        let mut pixels = tiny_skia::Pixmap::new(sides[0] as u32, sides[1] as u32)
            .ok_or_else(|| failed("not enough memory".into()))?;
        let transform = tiny_skia::Transform::from_scale(scale, scale);
        resvg::render(&tree, transform, &mut pixels.as_mut());
        pixels.encode_png().map_err(|error| failed(error.to_string()))
    }
}
