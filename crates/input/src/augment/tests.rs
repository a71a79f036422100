//! Tests of `augment`.

use proptest::prelude::*;

use super::*;

fn noise(width: usize, height: usize) -> Pixels {
    let data = (0..width * height * 3).map(|i| (i as u32).wrapping_mul(2_654_435_761) >> 24);
    Pixels::new(width, height, data.map(|v| v as u8).collect()).unwrap()
}

fn strong() -> Augment {
    Augment {
        crop: Some(CropRange { scale: [0.3, 1.0], ratio: [0.75, 4.0 / 3.0] }),
        flip: 0.5,
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        colour_cast: 0.1,
    }
}

#[test]
fn none_is_the_contracts_own_preparation() {
    let (pixels, contract) = (noise(40, 31), ImageContract::clip(16));
    assert_eq!(Augment::none().apply(&pixels, &contract, Seed(1)), contract.prepare(&pixels));
}

#[test]
fn follows_from_the_seed_alone() {
    let (pixels, contract) = (noise(40, 31), ImageContract::clip(16));
    let apply = |seed| strong().apply(&pixels, &contract, Seed(seed));
    assert_eq!(apply(1), apply(1));
    assert_ne!(apply(1), apply(2));
}

#[test]
fn flips_as_often_as_told() {
    let (pixels, contract) = (noise(16, 16), ImageContract::clip(16));
    let mut mirrored = pixels.clone();
    mirrored.flip_horizontally();
    assert_eq!(mirrored.row(3)[..3], pixels.row(3)[45..]);
    let flips = |flip: f32| {
        let augment = Augment { flip, ..Augment::none() };
        let apply = |seed| augment.apply(&pixels, &contract, Seed(seed));
        (0..400).filter(|&seed| apply(seed) == mirrored).count()
    };
    assert_eq!((flips(0.0), flips(1.0)), (0, 400));
    assert!((60..=140).contains(&flips(0.25)), "{}", flips(0.25));
}

#[test]
fn crops_inside_the_asked_shapes_when_they_fit() {
    let range = CropRange { scale: [0.2, 0.5], ratio: [0.8, 1.25] };
    let mut areas = Vec::new();
    for i in 0..300 {
        let frame = range.draw(200, 160, &mut Seed(7).at(i).rng());
        assert!(frame.left + frame.width <= 200 && frame.top + frame.height <= 160);
        let (w, h) = (frame.width as f64, frame.height as f64);
        assert!((0.19..=0.51).contains(&(w * h / 32_000.0)), "{frame:?}");
        assert!((0.78..=1.28).contains(&(w / h)), "{frame:?}");
        areas.push(w * h / 32_000.0);
    }
    let mean = areas.iter().sum::<f64>() / 300.0;
    assert!((mean - 0.35).abs() < 0.03, "areas are uniform, their mean is {mean}");
}

#[test]
fn falls_back_to_the_centre() {
    let range = CropRange { scale: [1.0, 1.0], ratio: [1.0, 1.0] };
    let frame = range.draw(100, 20, &mut Seed(3).rng());
    assert_eq!(frame, Frame { left: 40, top: 0, width: 20, height: 20 });
    let frame = range.draw(20, 101, &mut Seed(3).rng());
    assert_eq!(frame, Frame { left: 0, top: 40, width: 20, height: 20 });
}

#[test]
fn brightness_scales_contrast_keeps_the_mean_saturation_keeps_grey() {
    let contract = ImageContract::clip(16);
    let grey = Pixels::filled(16, 16, [100, 100, 100]);
    let each = |augment: Augment, pixels: &Pixels| -> Vec<Pixels> {
        (0..50).map(|seed| augment.apply(pixels, &contract, Seed(seed))).collect()
    };
    let bright = each(Augment { brightness: 0.5, ..Augment::none() }, &grey);
    let levels: Vec<u8> = bright.iter().map(|pixels| pixels.data()[0]).collect();
    assert!(levels.iter().all(|level| (50..=150).contains(level)), "{levels:?}");
    assert!(levels.iter().min() < Some(&70) && levels.iter().max() > Some(&130), "{levels:?}");
    for pixels in each(Augment { contrast: 0.5, ..Augment::none() }, &grey) {
        assert_eq!(pixels, grey);
    }
    for pixels in each(Augment { saturation: 1.0, ..Augment::none() }, &grey) {
        assert_eq!(pixels, grey);
    }
    let casts = each(Augment { colour_cast: 0.2, ..Augment::none() }, &grey);
    assert!(casts.iter().all(|pixels| pixels.data().iter().all(|v| (80..=120).contains(v))));
    assert!(casts.iter().any(|pixels| pixels.data()[0] != pixels.data()[1]));
}

#[test]
fn refuses_values_out_of_range() {
    assert_eq!(strong().check(), Ok(()));
    assert_eq!(Augment::none().check(), Ok(()));
    let found = Augment { flip: 1.5, ..strong() }.check().unwrap_err();
    assert_eq!(found.to_string(), "`augment.flip` is 1.5, expected 0 to 1");
    let crop = Some(CropRange { scale: [0.9, 0.3], ratio: [1.0, 1.0] });
    let found = Augment { crop, ..strong() }.check().unwrap_err();
    assert_eq!(
        found.to_string(),
        "`augment.crop.scale` is [0.9, 0.3], expected two rising numbers in 0 to 1"
    );
    let crop = Some(CropRange { scale: [0.3, 0.9], ratio: [0.0, 1.0] });
    assert_eq!(Augment { crop, ..strong() }.check().unwrap_err().key, "augment.crop.ratio");
}

proptest! {
    #[test]
    fn prop_gives_the_size_for_any_picture(
        (width, height, size) in (1..80_usize, 1..80_usize, 1..40_usize),
        seed in any::<u64>(),
    ) {
        let pixels = noise(width, height);
        let found = strong().apply(&pixels, &ImageContract::clip(size), Seed(seed));
        prop_assert_eq!((found.width(), found.height()), (size, size));
    }
}
