//! The windows of pictures against plain code: numbers of every pixel first, then windows of those, bit for bit.

use conjoin_core::Seed;
use conjoin_engine::{Exec, ImageShape, Levels, Pictures, Workspace};
use rand::Rng;

/// Two pictures, their numbers pixel by pixel, and what each level stands for.
struct Case {
    shape: ImageShape,
    bytes: [Vec<u8>; 2],
    levels: Box<Levels>,
    numbers: Vec<f32>,
}

fn case(height: usize, width: usize) -> Case {
    let mut rng = Seed(height as u64).rng();
    let bytes = [0, 1].map(|_| (0..height * width * 3).map(|_| rng.random()).collect::<Vec<u8>>());
    let levels: Box<Levels> = Box::new(std::array::from_fn(|c| {
        std::array::from_fn(|level| (level as f32 / 255.0 - 0.4) / (0.2 + c as f32))
    }));
    let number = |(i, byte): (usize, &u8)| levels[i % 3][usize::from(*byte)];
    let numbers = bytes.iter().flatten().enumerate().map(number).collect();
    Case { shape: ImageShape { batch: 2, height, width }, bytes, levels, numbers }
}

/// TensorFlow's "same": the number of zeros before the first pixel.
fn before(size: usize, kernel: usize, stride: usize) -> usize {
    let out = size.div_ceil(stride);
    ((out - 1) * stride + kernel).saturating_sub(size) / 2
}

#[test]
fn patches_leave_out_what_is_behind_the_last_whole_one() {
    let Case { shape, bytes, levels, numbers } = case(7, 5);
    let (parameters, workspace) = (Vec::new(), Workspace::default());
    let pictures = bytes.each_ref().map(Vec::as_slice);
    let pictures = Pictures::new(&pictures, (shape.height, shape.width), &levels);
    let y = Exec::inferring(&parameters, &workspace).patches(&pictures, 2);
    assert_eq!((y.rows(), y.cols()), (2 * 3 * 2, 12));
    for (row, patch) in y.values().chunks(12).enumerate() {
        let (image, py, px) = (row / 6, row % 6 / 2, row % 2);
        for (at, value) in patch.iter().enumerate() {
            let (line, column, channel) = (py * 2 + at / 6, px * 2 + at % 6 / 3, at % 3);
            let expected = numbers[((image * 7 + line) * 5 + column) * 3 + channel];
            assert_eq!(value.to_bits(), expected.to_bits());
        }
    }
}

#[test]
fn windows_agree_with_a_plain_loop() {
    let shapes =
        [(5, 4, 3, 2), (6, 6, 3, 2), (8, 8, 4, 4), (3, 3, 3, 1), (1, 1, 5, 1), (2, 9, 5, 3)];
    for (height, width, kernel, stride) in shapes {
        let Case { bytes, levels, numbers, .. } = case(height, width);
        let (parameters, workspace) = (Vec::new(), Workspace::default());
        let pictures = bytes.each_ref().map(Vec::as_slice);
        let pictures = Pictures::new(&pictures, (height, width), &levels);
        let y = Exec::inferring(&parameters, &workspace).windows(&pictures, kernel, stride);
        let (top, left) = (before(height, kernel, stride), before(width, kernel, stride));
        let mut expected = Vec::new();
        for (image, oy) in (0..2).flat_map(|b| (0..height.div_ceil(stride)).map(move |y| (b, y))) {
            for ox in 0..width.div_ceil(stride) {
                for (ky, kx) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
                    let (iy, ix) = (oy * stride + ky, ox * stride + kx);
                    let inside = iy >= top && iy - top < height && ix >= left && ix - left < width;
                    expected.extend((0..3).map(|c| match inside {
                        true => numbers[((image * height + iy - top) * width + ix - left) * 3 + c],
                        false => 0.0,
                    }));
                }
            }
        }
        assert_eq!(y.values(), expected, "{height} × {width} by {kernel}, stride {stride}");
    }
}
