//! How scales are fitted, refused and mixed.

use super::*;

#[test]
fn fits_mean_and_spread() {
    let scale = Scale::fit([0.1, 0.2, 0.3, 0.4]).unwrap();
    assert!((scale.mean - 0.25).abs() < 1e-6);
    assert!((scale.std - 0.129_099).abs() < 1e-5);
    assert!((scale.apply(0.25 + scale.std) - 1.0).abs() < 1e-5);
}

#[test]
fn refuses_samples_without_a_spread() {
    assert_eq!(Scale::fit([]), None);
    assert_eq!(Scale::fit([0.5]), None);
    assert_eq!(Scale::fit([0.5, 0.5, 0.5]), None);
    assert_eq!(Scale::fit([0.5, f32::NAN]), None);
}

#[test]
fn a_logistic_fit_is_its_logit() {
    let (a, b) = (12.0, -3.0);
    let scale = Scale::from_logistic(a, b).unwrap();
    for cosine in [-0.5, 0.0, 0.25, 0.9] {
        assert!((scale.apply(cosine) - (a * cosine + b)).abs() < 1e-4);
    }
    assert_eq!(Scale::from_logistic(-1.0, 0.0), None);
    assert_eq!(Scale::from_logistic(0.0, 0.0), None);
}

#[test]
fn a_query_of_one_modality_has_the_scale_of_that_modality() {
    let scale = |mean, std| Some(Scale { mean, std });
    let calibration = Calibration {
        text_to_text: scale(0.4, 0.1),
        text_to_image: scale(0.1, 0.05),
        image_to_text: None,
        image_to_image: scale(0.5, 0.2),
    };
    let query = |modality, mix| Query { modality, mix };
    let mixed = |text, image| query(Modality::Text, Some(Mix { text, image }));
    let part = Modality::Image;
    assert_eq!(calibration.scale_of(query(Modality::Text, None), part), scale(0.1, 0.05));
    assert_eq!(calibration.scale_of(mixed(1.0, 0.0), part), scale(0.1, 0.05));
    let both = calibration.scale_of(mixed(0.6, 0.8), part).unwrap();
    assert!((both.mean - 0.46).abs() < 1e-6);
    assert!((both.std - (0.03_f32.hypot(0.16))).abs() < 1e-6);
    assert_eq!(calibration.scale_of(mixed(0.6, 0.8), Modality::Text), None);
}

#[test]
fn pairs_leave_the_matching_ones_out() {
    let texts = Embeddings::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8]).unwrap();
    let images = texts.clone();
    let fitted = Calibration::from_pairs(&texts, &images);
    let expected = Scale::fit([0.0, 0.6, 0.0, 0.8, 0.6, 0.8]).unwrap();
    let found = fitted.text_to_image.unwrap();
    assert!((found.mean - expected.mean).abs() < 1e-6 && (found.std - expected.std).abs() < 1e-6);
}
