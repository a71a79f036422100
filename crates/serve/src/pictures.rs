//! `GET /v1/items/{id}/picture`.
//!
//! A picture is a stranger's bytes: its type is told from its first bytes, never from its name, and
//! browsers are told not to guess.

use axum::{
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use conjoin_core::hash_bytes;

use crate::{error::ApiError, routes::App};

pub(crate) async fn picture(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NoPath)?;
    let Some(bytes) = app.store.picture(&id) else { return Err(ApiError::NoPicture { id }) };
    let tag = format!("\"{}\"", &hash_bytes(bytes)[..32]);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known == Some(tag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(bytes.to_vec()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(bytes)));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=60"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    headers.insert(ETAG, HeaderValue::try_from(tag).map_err(|_| ApiError::Internal)?);
    Ok(response)
}

fn content_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => "application/octet-stream",
    }
}

/// The path of an item's picture, the id percent-encoded.
pub(crate) fn picture_path(id: &str) -> String {
    let mut path = String::from("/v1/items/");
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path + "/picture"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_percent_encoded() {
        assert_eq!(picture_path("a-b_c~9"), "/v1/items/a-b_c~9/picture");
        assert_eq!(picture_path("a/b ?é.."), "/v1/items/a%2Fb%20%3F%C3%A9%2E%2E/picture");
    }

    #[test]
    fn types_come_from_the_bytes() {
        assert_eq!(content_type(b"\xff\xd8\xff\xe0"), "image/jpeg");
        assert_eq!(content_type(b"RIFF\0\0\0\0WEBPVP8 "), "image/webp");
        assert_eq!(content_type(b"GIF89a"), "image/gif");
        assert_eq!(content_type(b"<svg onload=x>"), "application/octet-stream");
        assert_eq!(content_type(b""), "application/octet-stream");
    }
}
