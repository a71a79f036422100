//! Pictures larger than a model sees: the whole, and a grid of pieces.
//!
//! In:  a decoded picture, the model's size. Out: views to embed; the vector is their mean.

use conjoin_input::Pixels;

/// The whole picture, and, if it is larger than `size`, a grid of up to `most` × `most` pieces of about
/// `size` pixels each.
pub(crate) fn views(pixels: Pixels, size: usize, most: usize) -> Vec<Pixels> {
    let (rows, columns) = (pieces(pixels.height(), size, most), pieces(pixels.width(), size, most));
    if rows * columns == 1 {
        return vec![pixels];
    }
    let cell = |i: usize, n: usize, length: usize| i * length / n..(i + 1) * length / n;
    let mut views = Vec::with_capacity(1 + rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let (y, x) = (cell(row, rows, pixels.height()), cell(column, columns, pixels.width()));
            let line = |y: usize| {
                let start = (y * pixels.width() + x.start) * 3;
                &pixels.data()[start..start + 3 * x.len()]
            };
            let data: Vec<u8> = y.clone().flat_map(line).copied().collect();
            views.push(Pixels::new(x.len(), y.len(), data).expect("a piece of a picture"));
        }
    }
    views.insert(0, pixels);
    views
}

/// How many pieces of about `size` a length is cut into.
fn pieces(length: usize, size: usize, most: usize) -> usize {
    ((length + size / 2) / size).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_picture_is_cut_into_pieces_that_cover_it() {
        let (width, height) = (70, 33);
        let data: Vec<u8> = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        let pixels = Pixels::new(width, height, data).unwrap();
        let views = views(pixels.clone(), 32, 4);
        assert_eq!(views.len(), 1 + 2, "two columns of one row");
        assert_eq!(views[0], pixels);
        assert_eq!((views[1].width(), views[2].width(), views[1].height()), (35, 35, 33));
        assert_eq!(views[2].data()[..3], pixels.data()[35 * 3..36 * 3]);
    }

    #[test]
    fn a_small_picture_stays_whole_and_a_huge_one_is_bounded() {
        let picture = |w, h| Pixels::new(w, h, vec![0; w * h * 3]).unwrap();
        assert_eq!(views(picture(40, 20), 32, 4).len(), 1);
        assert_eq!(views(picture(1000, 1000), 32, 3).len(), 10);
    }
}
