/** Distances on the globe, by the haversine formula on a sphere of the Earth's mean radius (IUGG). */
import { Value, object, run } from '@noa/assemblyscript';

const RADIUS_METRES = 6_371_008.8;

export function distance(): i32 {
  return run((input: Value): Value => {
    const metres = between(input.get('from'), input.get('to'));
    return object().set('metres', Value.number(metres));
  });
}

export function nearest(): i32 {
  return run((input: Value): Value => {
    const places = input.get('places').items();
    let best = 0;
    let least = f64.MAX_VALUE;
    for (let at = 0; at < places.length; at += 1) {
      const metres = between(input.get('from'), places[at]);
      if (metres >= least) continue;
      least = metres;
      best = at;
    }
    return object().set('name', places[best].get('name')).set('metres', Value.number(least));
  });
}

function radians(degrees: f64): f64 {
  return (degrees * Math.PI) / 180;
}

/** Metres, to the centimetre. */
function between(a: Value, b: Value): f64 {
  const south = radians(a.get('latitude').float());
  const north = radians(b.get('latitude').float());
  const up = Math.sin((north - south) / 2);
  const turn = radians(b.get('longitude').float() - a.get('longitude').float());
  const along = Math.sin(turn / 2);
  const chord = up * up + Math.cos(south) * Math.cos(north) * along * along;
  const metres = 2 * RADIUS_METRES * Math.asin(Math.min(1, Math.sqrt(chord)));
  return Math.round(metres * 100) / 100;
}
