//! Names for URLs: letters and digits of a title in lower case, joined by hyphens. Where a name was asked
//! for before, a number follows it.

use noa_sdk::{cache, code, object, Error, Value};

noa_sdk::export!(make);

const MAX_CHARS: usize = 80;

fn make(input: Value) -> Result<Value, Error> {
    let name = slug(input.text("title")?);
    if name.is_empty() {
        let message = "title needs a letter or a digit; put one in";
        return Err(Error::new(code::INVALID_ARGUMENT, message));
    }
    let taken = cache::increment(&format!("slugs:{}", name), 1.0, None)? as u64 - 1;
    let slug = if taken == 0 { name } else { format!("{}-{}", name, taken + 1) };
    Ok(object! { "slug": slug, "taken": taken })
}

fn slug(title: &str) -> String {
    let mut made = String::new();
    for character in title.to_lowercase().chars() {
        if character.is_alphanumeric() {
            made.extend(plain(character).chars());
        } else if !made.is_empty() && !made.ends_with('-') {
            made.push('-');
        }
    }
    made.chars().take(MAX_CHARS).collect::<String>().trim_end_matches('-').to_owned()
}

/// Letters of European languages without their marks; other letters stay.
fn plain(character: char) -> String {
    let letters = match character {
        'ä' | 'æ' => "ae",
        'à'..='å' => "a",
        'ç' => "c",
        'è'..='ë' => "e",
        'ì'..='ï' => "i",
        'ñ' => "n",
        'ò'..='õ' | 'ø' => "o",
        'ö' => "oe",
        'ù'..='û' => "u",
        'ü' => "ue",
        'ý' | 'ÿ' => "y",
        'ß' => "ss",
        other => return other.to_string(),
    };
    letters.to_owned()
}
