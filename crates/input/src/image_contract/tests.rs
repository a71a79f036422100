//! Tests of `image_contract` and `resize`.

use proptest::prelude::*;

use super::*;

fn noise(width: usize, height: usize) -> Pixels {
    let data = (0..width * height * 3).map(|i| (i as u32).wrapping_mul(2_654_435_761) >> 24);
    Pixels::new(width, height, data.map(|v| v as u8).collect()).unwrap()
}

fn contracts(size: usize) -> Vec<ImageContract> {
    let clip = ImageContract::clip(size);
    let resizes = [
        ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::HalfEven },
        ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::Down },
        ResizeMode::Squash,
        ResizeMode::LongestPad { fill: [1, 2, 3] },
    ];
    let with = |resize| ImageContract { resize, ..clip.clone() };
    let mut all: Vec<_> = resizes.map(with).into();
    let larger = |c: &ImageContract| ImageContract { resized: Some(size + 5), ..c.clone() };
    all.extend(all.iter().map(larger).collect::<Vec<_>>());
    all.push(ImageContract::imagenet(size));
    all
}

#[test]
fn refuses_pixels_that_do_not_fill_the_picture() {
    let found = Pixels::new(2, 2, vec![0; 11]).unwrap_err();
    assert_eq!(found.to_string(), "11 bytes of pixels for a 2x2 RGB picture, expected 12");
    assert!(Pixels::new(0, 2, Vec::new()).is_err());
    assert!(!Pixels::new(usize::MAX, 3, Vec::new()).unwrap_err().to_string().is_empty());
}

#[test]
fn rounds_crops_by_rule() {
    let surplus = [0, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(surplus.map(|n| CropRounding::HalfEven.half(n)), [0, 0, 1, 2, 2, 2, 3, 4]);
    assert_eq!(surplus.map(|n| CropRounding::Down.half(n)), [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn keeps_a_picture_of_the_right_size() {
    let pixels = noise(24, 24);
    for contract in contracts(24).into_iter().filter(|c| c.resized() == 24) {
        assert_eq!(contract.prepare(&pixels), pixels, "{contract:?}");
    }
}

#[test]
fn keeps_one_colour() {
    let pixels = Pixels::filled(53, 17, [0, 77, 255]);
    for contract in [ImageContract::clip(31), ImageContract::inception(31)] {
        assert_eq!(contract.prepare(&pixels), Pixels::filled(31, 31, [0, 77, 255]));
    }
}

#[test]
fn takes_the_most_extreme_shapes() {
    for (width, height) in [(1, 65_535), (65_535, 1)] {
        for contract in contracts(16) {
            let found = contract.prepare(&noise(width, height));
            assert_eq!((found.width(), found.height()), (16, 16));
        }
    }
}

#[test]
fn pads_evenly() {
    let contract = ImageContract {
        resize: ResizeMode::LongestPad { fill: [9, 9, 9] },
        ..ImageContract::clip(4)
    };
    let found = contract.prepare(&Pixels::filled(4, 1, [200, 0, 0]));
    let rows: Vec<u8> = (0..4).map(|y| found.row(y)[0]).collect();
    assert_eq!(rows, [9, 200, 9, 9]);
}

#[test]
fn normalizes_to_the_unit_range() {
    let contract = ImageContract::inception(1);
    let mut out = [0.0; 3];
    contract.normalize(&Pixels::filled(1, 1, [0, 51, 255]), &mut out);
    assert_eq!(out, [-1.0, (0.2 - 0.5) / 0.5, 1.0]);
}

#[test]
fn refuses_values_out_of_range() {
    let good = ImageContract::clip(224);
    assert_eq!(good.check(), Ok(()));
    let found = ImageContract { size: 0, ..good.clone() }.check().unwrap_err();
    assert_eq!(found.to_string(), "`image.size` is 0, expected 1 to 4096");
    let found = ImageContract { resized: Some(223), ..good.clone() }.check().unwrap_err();
    assert_eq!(found.to_string(), "`image.resized` is 223, expected `image.size` to 4096");
    let found = ImageContract { std: [1.0, 0.0, 1.0], ..good.clone() }.check().unwrap_err();
    assert_eq!(found.to_string(), "`image.std` is 0, expected finite numbers above 0");
    let found = ImageContract { mean: [f32::NAN; 3], ..good }.check().unwrap_err();
    assert_eq!(found.to_string(), "`image.mean` is NaN, expected finite numbers");
}

proptest! {
    #[test]
    fn prop_prepares_exactly_the_size(width in 1..150_usize, height in 1..150_usize, size in 1..70_usize) {
        let pixels = noise(width, height);
        for contract in contracts(size) {
            let found = contract.prepare(&pixels);
            prop_assert_eq!((found.width(), found.height()), (size, size));
        }
    }

    #[test]
    fn prop_part_of_resized_is_resized_part(
        (width, height) in (1..60_usize, 1..60_usize),
        (w, h) in (1..90_usize, 1..90_usize),
        cut in [any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()],
    ) {
        let pixels = noise(width, height);
        let (left, top) = (cut[0].index(w), cut[1].index(h));
        let wanted = Frame {
            left, top, width: 1 + cut[2].index(w - left), height: 1 + cut[3].index(h - top),
        };
        for kind in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let whole = resize(&pixels, (w, h), Frame::whole(w, h), kind);
            prop_assert_eq!(resize(&pixels, (w, h), wanted, kind), whole.part(wanted));
        }
    }
}
