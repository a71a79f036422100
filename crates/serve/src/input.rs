//! Request bodies: JSON, texts and images as data URIs.
//!
//! In:  bytes of a stranger. Out: typed requests within the limits.
//! Not here: fetching anything; an address is an error.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    ServeConfig,
    error::{ApiError, InputFault},
    routes::App,
};

/// Base64 as browsers and programs write it, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A JSON body of a known shape.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::MediaType);
        }
        let limit = app.config.max_body_bytes;
        let bytes = Bytes::from_request(request, app).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::BodyTooLarge { limit }
            } else {
                ApiError::BodyBroken
            }
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(ApiError::Json)
    }
}

/// Also keeps other sites' pages out: a browser does not send this type across origins unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// One thing to embed.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    Text(String),
    Image(Vec<u8>),
}

/// Reads `input` of an embeddings request: a string, or a list of strings, `{"text": …}` and
/// `{"image": …}`.
pub(crate) fn inputs(value: Value, config: &ServeConfig) -> Result<Vec<Input>, ApiError> {
    let values = match value {
        Value::Array(values) => values,
        value @ (Value::String(_)
        | Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)) => vec![value],
    };
    if values.is_empty() {
        return Err(ApiError::NoInput);
    }
    let (found, limit) = (values.len(), config.max_inputs);
    if found > limit {
        return Err(ApiError::TooManyInputs { found, limit });
    }
    let read = |(index, value)| {
        input(value, config.max_text_bytes).map_err(|fault| ApiError::Input { index, fault })
    };
    values.into_iter().enumerate().map(read).collect()
}

fn input(value: Value, max_text_bytes: usize) -> Result<Input, InputFault> {
    match value {
        Value::String(text) => check_text(text, max_text_bytes).map(Input::Text),
        Value::Object(mut fields) => match (fields.remove("text"), fields.remove("image")) {
            (Some(Value::String(text)), None) if fields.is_empty() => {
                check_text(text, max_text_bytes).map(Input::Text)
            }
            (None, Some(Value::String(uri))) if fields.is_empty() => {
                decode_image(&uri).map(Input::Image)
            }
            _ => Err(InputFault::Shape),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(InputFault::Shape),
    }
}

pub(crate) fn check_text(text: String, limit: usize) -> Result<String, InputFault> {
    if text.is_empty() {
        return Err(InputFault::Empty);
    }
    if text.len() > limit {
        return Err(InputFault::TooLong { found: text.len(), limit });
    }
    Ok(text)
}

/// The bytes of `data:image/…;base64,…`.
pub(crate) fn decode_image(uri: &str) -> Result<Vec<u8>, InputFault> {
    let is_image = |kind: &str| {
        kind.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("data:image/"))
            && kind.get(kind.len() - 7..).is_some_and(|end| end.eq_ignore_ascii_case(";base64"))
    };
    let (_, data) =
        uri.split_once(',').filter(|(kind, _)| is_image(kind)).ok_or(InputFault::NotDataUri)?;
    if data.is_empty() {
        return Err(InputFault::Empty);
    }
    BASE64.decode(data).map_err(|_| InputFault::Base64)
}

/// The little-endian bytes of a vector in base64, as OpenAI's clients ask for.
pub(crate) fn encode_vector(vector: &[f32]) -> String {
    BASE64.encode(vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Vec<Input>, String> {
        let config = ServeConfig { max_inputs: 3, max_text_bytes: 5, ..ServeConfig::default() };
        inputs(value, &config).map_err(|error| error.to_string())
    }

    fn text(text: &str) -> Input {
        Input::Text(text.to_owned())
    }

    #[test]
    fn reads_every_shape_of_input() {
        assert_eq!(read(json!("hat")), Ok(vec![text("hat")]));
        assert_eq!(read(json!(["a", {"text": "b"}])), Ok(vec![text("a"), text("b")]));
        let image = json!([{"image": "data:image/png;base64,AQID"}]);
        assert_eq!(read(image), Ok(vec![Input::Image(vec![1, 2, 3])]));
        let unpadded = json!([{"image": "DATA:image/jpeg;BASE64,AQ"}]);
        assert_eq!(read(unpadded), Ok(vec![Input::Image(vec![1])]));
    }

    #[test]
    fn refuses_what_is_out_of_shape_or_limit() {
        let shape = "must be a string, {\"text\": …} or {\"image\": …}";
        let uri = "must be an image as `data:image/…;base64,…`; addresses are never fetched";
        for (value, expected) in [
            (json!([]), "there is no input".to_owned()),
            (json!(["a", "b", "c", "d"]), "4 inputs, the limit is 3".to_owned()),
            (json!(["a", ""]), "input 1 is empty".to_owned()),
            (json!("longer"), "input 0 has 6 bytes of text, the limit is 5".to_owned()),
            (json!([1, 2]), format!("input 0 {shape}")),
            (json!([{"text": "a", "image": "b"}]), format!("input 0 {shape}")),
            (json!([{"text": "a", "x": 1}]), format!("input 0 {shape}")),
            (json!([{"image": "https://example.com/a.png"}]), format!("input 0 {uri}")),
            (json!([{"image": "data:text/html;base64,AQ"}]), format!("input 0 {uri}")),
            (json!([{"image": "data:image/png,AQ"}]), format!("input 0 {uri}")),
            (json!([{"image": "data:image/é;,AQ"}]), format!("input 0 {uri}")),
            (json!([{"image": "data:image/png;base64,"}]), "input 0 is empty".to_owned()),
            (
                json!([{"image": "data:image/png;base64,!"}]),
                "input 0 is not valid base64".to_owned(),
            ),
        ] {
            assert_eq!(read(value), Err(expected));
        }
    }
}
