//! What is bundled in the binary: the demo's data, the image tower it starts from, a vocabulary.
//!
//! Licences stand beside each file under `assets`.

/// MobileNet v1 0.75, 16-bit floats; Apache-2.0, see `assets/mobilenet/NOTICE`.
pub(crate) const MOBILENET: &[u8] = include_bytes!("../../../assets/mobilenet/model.safetensors");

/// BERT's uncased WordPiece vocabulary; Apache-2.0, see `assets/tokenizers/NOTICE`.
pub(crate) const VOCABULARY: &[u8] =
    include_bytes!("../../../assets/tokenizers/bert-base-uncased.vocab.txt");

/// The grocery data by file name; MIT, see `assets/grocery/LICENSE`.
pub(crate) const GROCERY: [(&str, &[u8]); 3] = [
    ("products.tar", include_bytes!("../../../assets/grocery/products.tar")),
    ("photos-train.tar", include_bytes!("../../../assets/grocery/photos-train.tar")),
    ("photos-val.tar", include_bytes!("../../../assets/grocery/photos-val.tar")),
];
