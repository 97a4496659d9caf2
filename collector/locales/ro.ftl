overall-empty = Încă nu există componente
overall-checking = Aflăm starea sistemelor
overall-unknown = Nu avem date
overall-operational = Toate sistemele funcționează
overall-operational-known = Nu știm de nicio problemă
overall-maintenance = Lucrări de întreținere
overall-degraded = Unele sisteme au performanță redusă
overall-partial = Unele sisteme nu funcționează
overall-major = Sistemele nu funcționează
without-data = { PLURAL($count) ->
    [one] Despre o componentă nu avem date.
    [few] Despre { $count } componente nu avem date.
   *[other] Despre { $count } de componente nu avem date.
}
checking-hint = Colectorul tocmai a pornit; primele date ajung în mai puțin de un minut.
empty-hint = Aici apar sistemele de îndată ce primul dintre ele trimite date.
state-operational = Funcționează
state-degraded = Performanță redusă
state-partial = Întrerupere parțială
state-major = Întrerupere totală
state-maintenance = Întreținere
state-unknown = Fără date
state-checking = Aflăm
components = Componente
last-24-hours = Ultimele 24 de ore
hours-ago = acum 24 de ore
now = acum
uptime = { $percent } disponibilitate
uptime-none = disponibilitate necunoscută
in-words = În cuvinte
word-share = { $state }: { $span }
all-good = Nicio abatere în ultimele 24 de ore.
change = de la { $from } la { $to }
hours = { PLURAL($count) ->
    [one] o oră
    [few] { $count } ore
   *[other] { $count } de ore
}
minutes = { PLURAL($count) ->
    [one] un minut
    [few] { $count } minute
   *[other] { $count } de minute
}
days = { PLURAL($count) ->
    [one] o zi
    [few] { $count } zile
   *[other] { $count } de zile
}
span-two = { $first } și { $second }
under-a-minute = sub un minut
legend = Legendă
method-title = Cum se calculează
method = Disponibilitatea este partea din timpul cunoscut în care componenta a funcționat, chiar și cu performanță redusă. Întreruperile, parțiale sau totale, se scad în întregime. Timpul fără date și cel de întreținere nu se numără. Fiecare bară arată o jumătate de oră, cu starea ei cea mai rea.
updated = Actualizat
date-time = { $day } { $month } { $year }, { $time }
other-language = English
other-language-hint = This page in English
skip = Sari la conținut
title-separator = { $overall } – { $name }
not-found-title = Pagina nu există
not-found = La această adresă nu este nimic.
to-status = Spre starea serviciilor
month-1 = ianuarie
month-2 = februarie
month-3 = martie
month-4 = aprilie
month-5 = mai
month-6 = iunie
month-7 = iulie
month-8 = august
month-9 = septembrie
month-10 = octombrie
month-11 = noiembrie
month-12 = decembrie
digi-navigation = Digitizare
digi-operations = Operare
digi-headline = { $done } din { $all } m înapoi la raft
digi-finish-p85 = Finalizare P85: { $day }
digi-finished = Toate unitățile sunt înapoi la raft.
digi-no-forecast = Încă fără prognoză: este nevoie de 15 zile lucrătoare de istoric sau de un ritm în configurație.
digi-preliminary = Preliminar.
digi-preliminary-why = Istoricul este prea scurt; data se sprijină pe ipoteze.
digi-measures = Stadiul
digi-measure = Măsură
digi-metres = Metri liniari
digi-units = Unități arhivistice
digi-sheets = File
digi-images = Imagini
digi-done = Acceptate și returnate
digi-accepted = Acceptate
digi-scope = În inventar
digi-share = Pondere
digi-burn-up = Metri liniari returnați și când vor fi gata ceilalți
digi-plan = Plan
digi-days-ahead = Zile lucrătoare înaintea planului
digi-honesty = Săptămâni trecute în care P85 s-a confirmat
digi-as-table = Același lucru ca tabel
digi-week-of = Săptămâna din
digi-metres-done = Metri returnați până atunci
digi-new-images = Imagini noi
digi-again = Rescanate
digi-moved = De ce s-a mutat data față de acum o săptămână
digi-cause = Cauză
digi-calendar-days = Zile calendaristice
digi-cause-scope = Volum: mai multe sau mai puține pagini
digi-cause-pace = Ritmul zilelor lucrătoare
digi-cause-rework = Refaceri
digi-cause-downtime = Zile fără lucru
digi-cause-progress = Producția săptămânii
digi-stages = Etape
digi-stage = Etapă
digi-waiting = În așteptare
digi-working = În lucru
digi-held = Reținute
digi-oldest = Cea mai veche, zile
digi-days-of-work = Zile lucrătoare de lucru
digi-bottleneck = gâtuire
digi-output = Producția ultimelor 20 de zile lucrătoare
digi-output-chart = Imagini pe zile, ultimele trei luni
digi-output-caption = Imagini pe zile: cele noi pline, cele rescanate în contur deasupra. Cifrele sunt în tabelul săptămânal de mai sus.
digi-station-or-shift = Stație sau schimb
digi-shift = Schimbul
digi-quality = Calitate și durate
digi-first-pass = Acceptate la prima verificare, recent
digi-overall = în total
digi-lead = Zile lucrătoare de la pregătire la raft
digi-incomplete = Fișiere incomplete, nenumărate
digi-rework = Refaceri după motiv
digi-reason = Motiv
digi-times = De câte ori
digi-open = Încă deschise
digi-lost-days = Întârziere, zile lucrătoare însumate
digi-attention = Ce așteaptă pe cineva
digi-waiting-events = { PLURAL($count) ->
    [one] Un eveniment așteaptă o unitate care nu este în inventar.
    [few] { $count } evenimente așteaptă unități care nu sunt în inventar.
   *[other] { $count } de evenimente așteaptă unități care nu sunt în inventar.
}
digi-overdue = Documente nereturnate la termen
digi-outliers = Pagini lipsă sau duble?
digi-images-of = imagini, așteptate
digi-ageing = Cel mai mult timp în lucru
digi-nothing = Nimic.
digi-strata = Pagini pe metru, așa cum au fost învățate
digi-series = Inventar
digi-binding = Legătură
digi-learned-from = Unități din care s-a învățat
digi-pages-per-metre = Imagini pe metru
digi-find = Unde este dosarul X?
digi-search-text = Cod, titlu, lot, cutie sau loc
digi-any-stage = oricare
digi-search = Caută
digi-no-unit = Nicio unitate nu se potrivește.
digi-code = Cod
digi-title = Titlu
digi-state = Stare
digi-place = Loc
digi-expected = așteptate
digi-more = Mai multe unități
digi-history = Ce s-a întâmplat cu ea
digi-no-event = Încă nimic.
digi-when = Când
digi-what = Ce
digi-source = Cine spune
digi-details = Detalii
digi-number = Număr
digi-all-events = Toate evenimentele, ca JSON
digi-not-begun = neîncepută
digi-leaves = File
digi-width = Lățime
digi-batch = Lot
digi-shelf = Locul la raft
digi-scanned = Scanată
digi-returned = Returnată
digi-rejections = Respingeri
digi-doing-waiting = în așteptare
digi-doing-working = în lucru
digi-doing-conservation = reținută: conservare
digi-doing-privacy_review = reținută: verificarea datelor personale
digi-doing-missing = reținută: lipsă
digi-stage-inventory = Inventariere
digi-stage-prep = Pregătire
digi-stage-scan = Scanare
digi-stage-post = Prelucrarea imaginilor
digi-stage-qc = Controlul calității
digi-stage-ocr = Recunoașterea textului
digi-stage-index = Indexare
digi-stage-deliver = Livrare
digi-stage-reassemble = Reasamblare
digi-stage-returned = Returnare
digi-empty-title = Încă nu există un inventar
digi-empty = Proiectul începe cu un inventar: un tabel al unităților, cu numărul de file și lățimea la raft.
