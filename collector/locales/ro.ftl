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
