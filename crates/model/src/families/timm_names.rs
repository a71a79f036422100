//! The architectures of timm that this build knows: what their names say that no tensor's shape does.
//!
//! Source: the registered models of timm 1.0, ViT and EVA families.

/// What a name says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// The name, mostly without the picture's size at its end.
    name: &'static str,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kind: Kind,
}

/// What architectures of one kind share: ε, activation, pooling, rotary positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ViT with a class token.
    Vit,
    /// As CLIP's: ε 1e-5.
    Clip,
    /// As OpenAI's CLIP: ε 1e-5, quick GELU.
    QuickClip,
    /// A MAP head.
    Siglip,
    /// A MAP head; GELU by tanh.
    SiglipTanh,
    /// The mean of all patches.
    Gap,
    /// The mean of all patches; GELU by tanh.
    GapTanh,
    /// EVA02: a rotary grid, the mean of all patches.
    Eva,
    /// EVA02 in EVA-CLIP: a rotary grid, the class token.
    EvaClip,
    /// EVA of the first generation: no rotary grid, the mean of all patches.
    EvaGiant,
    /// The same in EVA-CLIP: the class token.
    EvaGiantClip,
}

const fn known(name: &'static str, width: usize, heads: usize, kind: Kind) -> Known {
    Known { name, width, heads, kind }
}

const ALL: [Known; 65] = [
    known("vit_tiny_patch16", 192, 3, Kind::Vit),
    known("vit_small_patch8", 384, 6, Kind::Vit),
    known("vit_small_patch14_dinov2", 384, 6, Kind::Vit),
    known("vit_small_patch16", 384, 6, Kind::Vit),
    known("vit_small_patch16_36x1", 384, 6, Kind::Vit),
    known("vit_small_patch32", 384, 6, Kind::Vit),
    known("vit_base_patch8", 768, 12, Kind::Vit),
    known("vit_base_patch14_dinov2", 768, 12, Kind::Vit),
    known("vit_base_patch16", 768, 12, Kind::Vit),
    known("vit_base_patch16_224_miil", 768, 12, Kind::Vit),
    known("vit_base_patch16_plus", 896, 14, Kind::Vit),
    known("vit_base_patch32", 768, 12, Kind::Vit),
    known("vit_base_patch32_plus", 896, 14, Kind::Vit),
    known("vit_large_patch14", 1024, 16, Kind::Vit),
    known("vit_large_patch14_dinov2", 1024, 16, Kind::Vit),
    known("vit_large_patch16", 1024, 16, Kind::Vit),
    known("vit_large_patch32", 1024, 16, Kind::Vit),
    known("vit_huge_patch14", 1280, 16, Kind::Vit),
    known("vit_giant_patch14", 1408, 16, Kind::Vit),
    known("vit_giant_patch14_dinov2", 1536, 24, Kind::Vit),
    known("vit_gigantic_patch14", 1664, 16, Kind::Vit),
    known("vit_xsmall_patch16_clip", 256, 4, Kind::Clip),
    known("vit_medium_patch16_clip", 512, 8, Kind::Clip),
    known("vit_medium_patch32_clip", 512, 8, Kind::Clip),
    known("vit_betwixt_patch32_clip", 640, 10, Kind::Clip),
    known("vit_base_patch16_clip", 768, 12, Kind::Clip),
    known("vit_base_patch16_plus_clip", 896, 14, Kind::Clip),
    known("vit_base_patch32_clip", 768, 12, Kind::Clip),
    known("vit_large_patch14_clip", 1024, 16, Kind::Clip),
    known("vit_huge_patch14_clip", 1280, 16, Kind::Clip),
    known("vit_giant_patch14_clip", 1408, 16, Kind::Clip),
    known("vit_gigantic_patch14_clip", 1664, 16, Kind::Clip),
    known("vit_base_patch16_clip_quickgelu", 768, 12, Kind::QuickClip),
    known("vit_base_patch32_clip_quickgelu", 768, 12, Kind::QuickClip),
    known("vit_large_patch14_clip_quickgelu", 1024, 16, Kind::QuickClip),
    known("vit_huge_patch14_clip_quickgelu", 1280, 16, Kind::QuickClip),
    known("vit_gigantic_patch14_clip_quickgelu", 1664, 16, Kind::QuickClip),
    known("vit_base_patch16_siglip", 768, 12, Kind::Siglip),
    known("vit_base_patch32_siglip", 768, 12, Kind::SiglipTanh),
    known("vit_large_patch16_siglip", 1024, 16, Kind::Siglip),
    known("vit_large_patch16_siglip_512", 1024, 16, Kind::SiglipTanh),
    known("vit_so400m_patch14_siglip", 1152, 16, Kind::Siglip),
    known("vit_so400m_patch16_siglip", 1152, 16, Kind::SiglipTanh),
    known("vit_giantopt_patch16_siglip", 1536, 16, Kind::SiglipTanh),
    known("vit_base_patch16_siglip_gap", 768, 12, Kind::Gap),
    known("vit_base_patch32_siglip_gap", 768, 12, Kind::GapTanh),
    known("vit_large_patch16_siglip_gap", 1024, 16, Kind::Gap),
    known("vit_large_patch16_siglip_gap_512", 1024, 16, Kind::GapTanh),
    known("vit_so400m_patch14_siglip_gap", 1152, 16, Kind::Gap),
    known("vit_so400m_patch16_siglip_gap", 1152, 16, Kind::GapTanh),
    known("vit_giantopt_patch16_siglip_gap", 1536, 16, Kind::GapTanh),
    known("vit_medium_patch16_gap", 512, 8, Kind::Gap),
    known("vit_betwixt_patch16_gap", 640, 10, Kind::Gap),
    known("vit_base_patch16_gap", 768, 16, Kind::Gap),
    known("vit_giant_patch16_gap", 1408, 16, Kind::Gap),
    known("vit_huge_patch14_gap", 1280, 16, Kind::Gap),
    known("vit_huge_patch16_gap", 1280, 16, Kind::Gap),
    known("eva02_tiny_patch14", 192, 3, Kind::Eva),
    known("eva02_small_patch14", 384, 6, Kind::Eva),
    known("eva02_base_patch14", 768, 12, Kind::Eva),
    known("eva02_large_patch14", 1024, 16, Kind::Eva),
    known("eva02_base_patch16_clip", 768, 12, Kind::EvaClip),
    known("eva02_large_patch14_clip", 1024, 16, Kind::EvaClip),
    known("eva_giant_patch14", 1408, 16, Kind::EvaGiant),
    known("eva_giant_patch14_clip", 1408, 16, Kind::EvaGiantClip),
];

/// Looks a name up: whole, or without the picture's size. What follows a dot is the weights' tag.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    let name = name.split('.').next().unwrap_or(name);
    let whole = |name: &str| ALL.iter().find(|known| known.name == name);
    let (stem, size) = name.rsplit_once('_')?;
    let is_size = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
    whole(name).or_else(|| is_size.then(|| whole(stem)).flatten())
}

/// All names, for messages.
pub(crate) fn listed() -> String {
    let names: Vec<&str> = ALL.iter().map(|known| known.name).collect();
    format!("{} (each with the picture's size behind it)", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_with_sizes_and_tags() {
        let kind = |name: &str| find(name).map(|known| (known.kind, known.heads));
        assert_eq!(kind("vit_base_patch16_224"), Some((Kind::Vit, 12)));
        assert_eq!(kind("vit_small_patch14_dinov2.lvd142m"), Some((Kind::Vit, 6)));
        assert_eq!(kind("vit_large_patch16_siglip_384"), Some((Kind::Siglip, 16)));
        assert_eq!(kind("vit_large_patch16_siglip_512"), Some((Kind::SiglipTanh, 16)));
        assert_eq!(kind("vit_base_patch16_gap_224"), Some((Kind::Gap, 16)));
        assert_eq!(kind("vit_base_patch16_rpn_224"), None);
        assert_eq!(kind("eva02_enormous_patch14_clip_224"), None);
        assert_eq!(kind("vit"), None);
    }
}
